// The broadcast of the documentation of `ws`: every line that comes in goes to every client.
//
//   node broadcast.mjs PORT INPUT_PORT

import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { createServer as createInput } from 'node:net'
import { createInterface } from 'node:readline'

const require = createRequire(new URL('../../tests/clients/package.json', import.meta.url))
const { WebSocket, WebSocketServer } = require('ws')

const [port, inputPort] = process.argv.slice(2).map(Number)
const http = createServer()
const server = new WebSocketServer({ server: http })

const input = createInput((socket) => {
  createInterface({ input: socket }).on('line', (line) => {
    for (const client of server.clients) {
      if (client.readyState === WebSocket.OPEN) client.send(line)
    }
  })
})

input.listen(inputPort, '127.0.0.1', () => http.listen({ port, host: '127.0.0.1', backlog: 4096 }))

// The broadcast of the documentation of `ws`: every line that comes in goes to every client.
//
//   node broadcast.mjs PORT INPUT_PORT

import { createServer } from 'node:http'

import { WebSocket, WebSocketServer } from 'ws'

import { serve } from './lines.mjs'

const http = createServer()
const server = new WebSocketServer({ server: http })

serve(http, (line) => {
  for (const client of server.clients) {
    if (client.readyState === WebSocket.OPEN) client.send(line)
  }
})

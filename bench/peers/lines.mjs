// What both servers for Node share: every line that comes in is handed on.

import { createServer } from 'node:net'
import { createInterface } from 'node:readline'

/**
 * Take lines on a port, and only then open the door for clients.
 * @param {import('node:http').Server} http
 * @param {(line: string) => void} take
 */
export function serve(http, take) {
  const [port, inputPort] = process.argv.slice(2).map(Number)
  const input = createServer((socket) => createInterface({ input: socket }).on('line', take))
  input.listen(inputPort, '127.0.0.1', () => http.listen({ port, host: '127.0.0.1', backlog: 4096 }))
}

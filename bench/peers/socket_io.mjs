// socket.io as it comes: every line that comes in is emitted to all, encoded once by socket.io.
//
//   node socket_io.mjs PORT INPUT_PORT

import { createServer } from 'node:http'

import { Server } from 'socket.io'

import { serve } from './lines.mjs'

const http = createServer()
// Clients begin with WebSocket, as fast ones are told to. A ping each 25 s would be a text that
// the crowd doesn't answer.
const server = new Server(http, { transports: ['websocket'], pingInterval: 86_400_000 })

serve(http, (line) => server.emit('change', JSON.parse(line)))

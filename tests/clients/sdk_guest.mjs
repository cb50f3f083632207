// A guest of the official JavaScript SDK, which a test drives: commands as JSON lines on standard
// input, what happens as JSON lines on standard output. Each token that the SDK asks for, with
// `getToken`, is asked of the test.
//
//   {"do": "connect", "url": "ws://...", "token": "...", "encoding": "json"}
//   {"do": "subscribe", "channel": "zone:A", "ownToken": true}
//   {"do": "subscribe", "channel": "zone:A", "joinLeave": true}
//   {"do": "presence", "channel": "zone:A"}
//   {"do": "ask", "channel": "zone:A", "times": 20}
//   {"do": "close"}
//   {"do": "token", "id": 3, "token": "..."}

import { createInterface } from 'node:readline'
import WebSocket from 'ws'
import { clients } from './sdk_encodings.mjs'

let client = null
const wanted = new Map()

function tell(message) {
  process.stdout.write(JSON.stringify(message) + '\n')
}

function wantToken(channel) {
  return new Promise((resolve) => {
    const id = wanted.size
    wanted.set(id, resolve)
    tell({ event: 'token', id, channel })
  })
}

function connect(url, token, encoding) {
  client = new clients[encoding](url, {
    websocket: WebSocket,
    token,
    getToken: () => wantToken(null),
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
  })
  for (const event of ['connecting', 'connected', 'disconnected']) {
    client.on(event, (context) =>
      tell({ event, code: context.code ?? 0, client: context.client ?? '' }),
    )
  }
  client.on('error', (context) => tell({ event: 'error', code: context.error.code }))
  client.connect()
}

function subscribe(channel, ownToken, joinLeave) {
  const options = ownToken ? { getToken: () => wantToken(channel) } : { joinLeave }
  const subscription = client.newSubscription(channel, {
    ...options,
    minResubscribeDelay: 20,
    maxResubscribeDelay: 200,
  })
  for (const event of ['subscribing', 'subscribed', 'unsubscribed']) {
    subscription.on(event, (context) =>
      tell({ event, channel, code: context.code ?? 0, recovered: context.recovered ?? false }),
    )
  }
  subscription.on('error', (context) => tell({ event: 'error', channel, code: context.error.code }))
  subscription.on('publication', (publication) =>
    tell({ event: 'publication', channel, offset: publication.offset }),
  )
  for (const event of ['join', 'leave']) {
    subscription.on(event, ({ info }) => tell({ event, channel, ...info }))
  }
  subscription.subscribe()
}

async function presence(channel) {
  try {
    const { clients } = await client.presence(channel)
    const { numClients, numUsers } = await client.presenceStats(channel)
    tell({ event: 'presence', clients, numClients, numUsers })
  } catch (error) {
    tell({ event: 'absence', code: error.code, temporary: error.temporary === true })
  }
}

function ask(channel, times) {
  for (let left = times; left > 0; left -= 1) {
    client.history(channel, { limit: 0 }).then(
      () => tell({ event: 'answered', code: 0 }),
      (error) => tell({ event: 'answered', code: error.code, temporary: error.temporary === true }),
    )
  }
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  if (command.do === 'connect') connect(command.url, command.token, command.encoding)
  else if (command.do === 'subscribe') subscribe(command.channel, command.ownToken, command.joinLeave)
  else if (command.do === 'presence') presence(command.channel)
  else if (command.do === 'ask') ask(command.channel, command.times)
  else if (command.do === 'close') client.disconnect()
  else wanted.get(command.id)(command.token)
}).on('close', () => process.exit(0))

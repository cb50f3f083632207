// A screen of the official JavaScript SDK, which a test drives: commands as JSON lines on
// standard input, what happens as JSON lines on standard output.
//
//   {"do": "watch", "url": "ws://...", "zones": ["A", "B"], "encoding": "json"}
//   {"do": "report"}    answers with the materialised zones
//   {"do": "stop"}

import { createInterface } from 'node:readline'
import WebSocket from 'ws'
import { clients, parsed } from './sdk_encodings.mjs'

const zones = new Map()
let client = null

function tell(message) {
  process.stdout.write(JSON.stringify(message) + '\n')
}

function takeSnapshot(zone, data) {
  zone.epoch = data.epoch
  zone.rev = data.rev
  zone.users = new Map(data.users.map((user) => [user.id, user.version]))
}

function takePublication(zone, publication) {
  if (publication.offset <= zone.rev) {
    zone.repeated += 1
    return
  }
  if (publication.offset !== zone.rev + 1) zone.gaps += 1
  zone.rev = publication.offset
  for (const event of parsed(publication.data).events) {
    if (event.type === 'left') zone.users.delete(event.user_id)
    else if (event.type === 'entered' || event.type === 'changed') {
      zone.users.set(event.user.id, event.user.version)
    }
  }
}

function watch(url, zoneIds, encoding) {
  client = new clients[encoding](url, {
    websocket: WebSocket,
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
  })
  client.on('connected', () => tell({ event: 'connected' }))
  client.on('connecting', (context) => tell({ event: 'connecting', code: context.code }))
  for (const id of zoneIds) {
    const zone = { epoch: '', rev: -1, users: new Map(), gaps: 0, repeated: 0 }
    zones.set(id, zone)
    const subscription = client.newSubscription(`zone:${id}`)
    subscription.on('subscribed', (context) => {
      if (!context.recovered) takeSnapshot(zone, parsed(context.data))
      tell({
        event: 'subscribed',
        zone: id,
        wasRecovering: context.wasRecovering,
        recovered: context.recovered,
      })
    })
    subscription.on('publication', (publication) => takePublication(zone, publication))
    subscription.on('unsubscribed', (context) =>
      tell({ event: 'unsubscribed', zone: id, code: context.code }),
    )
    subscription.subscribe()
  }
  client.connect()
}

function report() {
  const pictures = {}
  for (const [id, zone] of zones) {
    pictures[id] = { ...zone, users: Object.fromEntries(zone.users) }
  }
  tell({ event: 'report', zones: pictures })
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  if (command.do === 'watch') watch(command.url, command.zones, command.encoding)
  else if (command.do === 'report') report()
  else process.exit(0)
}).on('close', () => process.exit(0))

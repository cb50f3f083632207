// Several clients of the official JavaScript SDK in one process, which say as JSON lines all that
// the SDK hands to an application. Commands come as JSON lines on standard input:
//
//   {"do": "open", "client": "c1", "url": "ws://...", "channels": ["zone:A"]}
//   {"do": "sleep", "client": "c1"}     {"do": "wake", "client": "c1"}

import { createInterface } from 'node:readline'
import { Centrifuge } from 'centrifuge'
import WebSocket from 'ws'

const clients = new Map()

function tell(message) {
  process.stdout.write(JSON.stringify(message) + '\n')
}

function watch(client, name, channel) {
  const subscription = client.newSubscription(channel, {
    minResubscribeDelay: 50,
    maxResubscribeDelay: 400,
  })
  subscription.on('subscribed', (context) =>
    tell({
      client: name,
      event: 'subscribed',
      channel,
      recovered: context.recovered === true,
      epoch: context.streamPosition.epoch,
      rev: context.streamPosition.offset,
      data: context.recovered ? null : context.data,
    }),
  )
  subscription.on('publication', (publication) =>
    tell({
      client: name,
      event: 'publication',
      channel,
      rev: publication.offset,
      tx: publication.data.tx,
      events: publication.data.events,
    }),
  )
  subscription.on('subscribing', (context) =>
    tell({ client: name, event: 'unsubscribed', channel, code: context.code }),
  )
  subscription.on('unsubscribed', (context) =>
    tell({ client: name, event: 'unsubscribed', channel, code: context.code, final: true }),
  )
  subscription.subscribe()
}

function open({ client: name, url, channels }) {
  const client = new Centrifuge(url, {
    websocket: WebSocket,
    minReconnectDelay: 20,
    maxReconnectDelay: 300,
    maxServerPingDelay: 2000,
    timeout: 3000,
  })
  clients.set(name, client)
  client.on('message', (context) => tell({ client: name, event: 'message', data: context.data }))
  client.on('connected', () => tell({ client: name, event: 'connected' }))
  client.on('connecting', (context) => tell({ client: name, event: 'closed', code: context.code }))
  client.on('disconnected', (context) => tell({ client: name, event: 'closed', code: context.code }))
  for (const channel of channels) watch(client, name, channel)
  client.connect()
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line)
    if (command.do === 'open') open(command)
    else if (command.do === 'sleep') clients.get(command.client).disconnect()
    else if (command.do === 'wake') clients.get(command.client).connect()
  })
  .on('close', () => process.exit(0))

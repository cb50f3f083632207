// How `zonecast.js` puts together what a service says in an order that is hard to cause: parts of a
// transaction that come apart, a gap, a subscription that is taken back. The other side is a
// script of the protocol's lines (docs/protocol.md); against real nodes run the tests in Python.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket, { WebSocketServer } from 'ws'
import { watch } from '../../realtime/web/static/zonecast.js'

const user = (id, version, zone_id, name = 'u' + id) => {
  return { id, global_id: 1000 + id, name, zone_id, attributes: {}, version }
}
const entered = (one) => ({ type: 'entered', user: one })
const left = (user_id, version) => ({ type: 'left', user_id, version })
const pub = (zone, offset, tx, ...events) => {
  return { push: { channel: 'zone:' + zone, pub: { data: { tx, events }, offset, time: 1000 + offset } } }
}
const state = (zone, rev, ...users) => ({
  channel: 'zone:' + zone, epoch: 'e', rev, users, digest: '',
  zone: { zone_id: zone, name: 'Zone ' + zone, attributes: {} },
})

// A scripted service, and a watcher of it with everything that it told.
class Script {
  static async start(t, options) {
    const script = new Script()
    script.server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    await once(script.server, 'listening')
    const url = `http://127.0.0.1:${script.server.address().port}`
    script.zones = watch({ url, WebSocket, backoffMinMs: 5, backoffMaxMs: 20, ...options })
    script.changes = []
    script.errors = []
    script.zones.on('change', (change) => script.changes.push(change))
    script.zones.on('error', (error) => script.errors.push(error))
    t.after(() => {
      script.zones.close()
      for (const client of script.server.clients) client.terminate()
      script.server.close()
    })
    return script
  }

  // Wait for the next connection, and answer its `connect`.
  async connected(reply = { ping: 25, pong: true, data: { node: 'n' } }) {
    const [socket] = await once(this.server, 'connection')
    this.socket = socket
    this.commands = []
    this.arrived = []
    socket.on('message', (data) => {
      this.commands.push(...data.toString().split('\n').map((line) => JSON.parse(line)))
      for (const wake of this.arrived.splice(0)) wake()
    })
    const [{ id, connect }] = await this.take(1)
    this.say({ id, connect: reply })
    return connect
  }

  async take(count) {
    while (this.commands.length < count) await new Promise((resolve) => this.arrived.push(resolve))
    return this.commands.splice(0, count)
  }

  say(...lines) {
    this.socket.send(lines.map((line) => JSON.stringify(line)).join('\n'))
  }

  // Wait until all that was said is taken in: the watcher answers a ping behind it.
  async told() {
    this.say({})
    assert.deepEqual(await this.take(1), [{}])
  }

  // Answer as many subscribes with these states or other answers, in one message.
  async subscribed(...answers) {
    const commands = await this.take(answers.length)
    this.say(...commands.map(({ id }, index) => {
      const answer = answers[index]
      if (answer.error) return { id, ...answer }
      if (!answer.users) return { id, subscribe: answer }
      const { epoch, rev: offset } = answer
      return { id, subscribe: { recoverable: true, positioned: true, epoch, offset, data: answer } }
    }))
    await this.told()
    return commands.map((command) => command.subscribe)
  }

  next(type) {
    return new Promise((resolve) => this.zones.addEventListener(type, resolve, { once: true }))
  }

  moves() {
    return this.changes.splice(0).map(({ users }) => users.map(({ id, from, to }) => [id, from, to]))
  }

  shown() {
    return Object.fromEntries([...this.zones].map((zone) => [zone.id, [...zone.users.keys()]]))
  }
}

const ada = (version, zone) => user(1, version, zone, 'Ada')

async function startWith(t, options = {}) {
  const script = await Script.start(t, { zones: ['A', 'B'], ...options })
  await script.connected()
  await script.subscribed(state('A', 1, ada(4, 'A')), state('B', 1))
  script.moves()
  return script
}

test('a transaction over two zones is one change, with both in their new state', async (t) => {
  const script = await startWith(t)
  let seen
  script.zones.on('change', () => { seen = script.shown() })
  script.say(pub('A', 2, 't', left(1, 5)), pub('B', 2, 't', entered(ada(5, 'B'))))
  await script.told()
  const [change] = script.changes
  assert.deepEqual([script.changes.length, change.txs, change.time], [1, ['t'], 1002])
  assert.deepEqual(change.zones.map(({ id }) => id), ['A', 'B'])
  assert.deepEqual(change.users, [{ id: 1, user: ada(5, 'B'), before: ada(4, 'A'), from: 'A', to: 'B' }])
  assert.deepEqual(seen, { A: [], B: [1] })
  assert.equal(script.zones.find(1).id, 'B')
})

test('who leaves one zone before the other tells of it is shown there until then', async (t) => {
  const script = await startWith(t)
  script.say(pub('A', 2, 't', left(1, 5)))
  await script.told()
  assert.deepEqual(script.shown(), { A: [1], B: [] })
  script.say(pub('B', 2, 't', entered(ada(5, 'B'))))
  await script.told()
  assert.deepEqual(script.shown(), { A: [], B: [1] })
  assert.deepEqual(script.moves(), [[[1, 'A', 'B']]])
})

test('who enters one zone before the other tells of it is shown once, where it is newer', async (t) => {
  const script = await startWith(t)
  script.say(pub('B', 2, 't', entered(ada(5, 'B'))))
  await script.told()
  assert.deepEqual(script.shown(), { A: [], B: [1] })
  script.say(pub('A', 2, 't', left(1, 5)))
  await script.told()
  assert.deepEqual(script.moves(), [[[1, 'A', 'B']]])
  assert.equal(script.zones.get('A').digest(), '0-00000000')
})

test('who left and comes nowhere is let go of when the zones have settled', async (t) => {
  const script = await startWith(t)
  script.say(pub('A', 2, 't', left(1, 5)))
  await script.told()
  await script.next('change')
  assert.deepEqual(script.moves(), [[[1, 'A', undefined]]])
  assert.deepEqual(script.shown(), { A: [], B: [] })
})

test('a move during an absence is one change, though the zones answer apart', async (t) => {
  const script = await startWith(t)
  script.socket.terminate()
  await script.connected()
  const asked = await script.take(2)
  assert.deepEqual(asked.map(({ subscribe }) => [subscribe.recover, subscribe.epoch, subscribe.offset]), [
    [true, 'e', 1], [true, 'e', 1],
  ])
  const recovered = (offset, ...events) => ({
    epoch: 'e', offset, was_recovering: true, recovered: true,
    publications: [{ offset, data: { tx: 't', events } }],
  })
  script.say({ id: asked[0].id, subscribe: recovered(2, left(1, 5)) })
  await script.told()
  assert.deepEqual(script.shown(), { A: [1], B: [] })
  assert.equal(script.zones.status.state, 'catching up')
  script.say({ id: asked[1].id, subscribe: recovered(2, entered(ada(5, 'B'))) })
  await script.told()
  assert.deepEqual(script.moves(), [[[1, 'A', 'B']]])
  const { state, resumed, snapshots, connections, since } = script.zones.status
  assert.deepEqual([state, resumed, snapshots, connections, since], ['live', 2, 0, 2, null])
})

test('a gap is mended by a new connection from the last position', async (t) => {
  const script = await startWith(t)
  script.say(pub('A', 2, 't', entered(user(2, 1, 'A'))), pub('A', 4, 'v', entered(user(4, 1, 'A'))))
  await script.connected()
  const [{ subscribe }] = await script.take(1)
  assert.deepEqual([subscribe.channel, subscribe.offset], ['zone:A', 2])
  assert.deepEqual(script.shown().A, [1, 2])
})

test('what came already is not taken again', async (t) => {
  const script = await startWith(t)
  script.say(pub('A', 1, 't', left(1, 5)))
  await script.told()
  assert.deepEqual([script.changes, script.shown().A], [[], [1]])
})

test('a subscription that ends is begun again, from the position or anew', async (t) => {
  const script = await startWith(t)
  const ended = (code) => ({ push: { channel: 'zone:A', unsubscribe: { code, reason: '' } } })
  script.say(ended(2500))
  const [resumed] = await script.subscribed({ epoch: 'e', offset: 1, recovered: true })
  assert.deepEqual([resumed.recover, resumed.offset], [true, 1])
  script.say(ended(2502))
  const [anew] = await script.subscribed({ ...state('A', 1, ada(2, 'A')), epoch: 'f' })
  assert.equal(anew.recover, undefined)
  assert.deepEqual([script.zones.get('A').epoch, script.shown().A], ['f', [1]])
  assert.equal(script.zones.get('A').users.get(1).version, 2)
  assert.equal(script.zones.status.snapshots, 1)
})

test('a zone that is refused shows nothing any more, and the others go on', async (t) => {
  const script = await startWith(t)
  script.say({ push: { channel: 'zone:A', unsubscribe: { code: 2500, reason: '' } } })
  await script.subscribed({ error: { code: 103, message: 'permission denied' } })
  assert.deepEqual(script.shown(), { A: [], B: [] })
  assert.equal(script.zones.get('A').state, 'refused')
  assert.deepEqual(script.errors.map(({ zone, code }) => [zone.id, code]), [['A', 103]])
  assert.equal(script.zones.status.state, 'live')
})

test('a zone that was taken back is refused, not gone, and asked for by the next connection only', async (t) => {
  const script = await startWith(t)
  script.say({ push: { channel: 'zone:A', unsubscribe: { code: 2001, reason: 'permission revoked' } } })
  await script.told()
  const { state: now, error } = script.zones.get('A')
  assert.deepEqual([now, error.code, error.message], ['refused', 2001, 'permission revoked'])
  assert.deepEqual(script.errors.map(({ zone, code }) => [zone.id, code]), [['A', 2001]])
  assert.deepEqual([script.shown(), script.zones.status.state], [{ A: [], B: [] }, 'live'])
  await sleep(4_000) // Longer than until what is missing is asked for again.
  assert.deepEqual(script.commands, [])
  script.socket.terminate()
  await script.connected()
  const denied = { error: { code: 103, message: 'permission denied' } }
  const [asked] = await script.subscribed(denied, { epoch: 'e', offset: 1, recovered: true })
  assert.deepEqual(asked, { channel: 'zone:A' })
  assert.deepEqual([script.zones.status.state, script.errors.length], ['live', 1])
})

test('a zone that can not be read just now is asked for again', async (t) => {
  const script = await startWith(t)
  script.say({ push: { channel: 'zone:A', unsubscribe: { code: 2500, reason: '' } } })
  await script.subscribed({ error: { code: 100, message: 'internal server error', temporary: true } })
  assert.equal(script.zones.status.state, 'catching up')
  assert.deepEqual(script.shown().A, [1])
  await script.subscribed({ epoch: 'e', offset: 1, recovered: true })
  assert.equal(script.zones.status.state, 'live')
})

test('that all zones have answered is told once for each connection', async (t) => {
  const script = await startWith(t)
  let ready = 0
  script.zones.on('ready', () => ready++)
  script.say(pub('A', 2, 't', entered(ada(5, 'A'))))
  await script.told()
  assert.equal(ready, 0)
  script.socket.terminate()
  await script.connected()
  await script.subscribed({ epoch: 'e', offset: 2, recovered: true }, { epoch: 'e', offset: 1, recovered: true })
  assert.equal(ready, 1)
})

test('a zone that is added twice is asked for once', async (t) => {
  const script = await startWith(t)
  script.zones.add('C')
  script.zones.add('C')
  const [{ channel }] = await script.subscribed(state('C', 1))
  assert.equal(channel, 'zone:C')
  assert.deepEqual([script.commands, script.errors], [[], []])
  assert.equal(script.zones.get('C').state, 'live')
})

test('that the service is stale is told, since when, and when it is over', async (t) => {
  const script = await startWith(t)
  script.say({ push: { message: { data: { state: 'stale', since: 1234 } } } })
  await script.told()
  assert.deepEqual([script.zones.status.state, script.zones.status.since], ['stale', 1234])
  script.say({ push: { message: { data: { state: 'live', since: null } } } })
  await script.told()
  assert.deepEqual([script.zones.status.state, script.zones.status.since], ['live', null])
})

test('a token is asked for at each connection, and again before it ends', async (t) => {
  const given = []
  const token = async () => {
    given.push('token ' + given.length)
    return given.at(-1)
  }
  const script = await Script.start(t, { zones: ['A'], token })
  assert.deepEqual(await script.connected({ ping: 25, expires: true, ttl: 1 }), { token: 'token 0' })
  await script.subscribed(state('A', 1))
  const [{ refresh, id }] = await script.take(1)
  assert.deepEqual(refresh, { token: 'token 1' })
  script.say({ id, refresh: { expires: true, ttl: 3600 } })
  script.socket.close(3500, 'invalid token')
  assert.deepEqual(await script.connected(), { token: 'token 2' })
})

test('a token that can not be had is asked for again', async (t) => {
  let asked = 0
  const token = () => {
    if (asked++ < 2) throw new Error('not now')
    return 'one'
  }
  const script = await Script.start(t, { zones: ['A'], token })
  assert.deepEqual(await script.connected(), { token: 'one' })
})

test('who is refused for good stops, and says why', async (t) => {
  const script = await startWith(t, { token: 'fixed' })
  script.socket.close(3500, 'invalid token')
  await script.next('status')
  assert.equal(script.zones.status.state, 'closed')
  assert.deepEqual(script.zones.status.error, { code: 3500, message: 'invalid token' })
  await sleep(50)
  assert.equal(script.server.clients.size, 0)
})

test('a stream that there is no room for is asked for again, and a refused one is not', async (t) => {
  const answers = [429, 503, 200, 403]
  const server = createServer((request, response) => {
    const status = answers.shift()
    const type = status === 200 ? 'text/event-stream' : 'application/problem+json'
    response.writeHead(status, { 'content-type': type })
    if (status !== 200) return response.end(JSON.stringify({ status, detail: 'because' }))
    const event = (name, data) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`
    response.end(event('status', { state: 'live', since: null }) + event('snapshot', state('A', 1)))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const url = `http://127.0.0.1:${server.address().port}`
  const zones = watch({ url, zones: ['A'], transport: 'sse', backoffMinMs: 5, backoffMaxMs: 20 })
  await zones.ready
  await new Promise((resolve) => zones.on('status', ({ state: now }) => now === 'closed' && resolve()))
  assert.deepEqual(zones.status.error, { code: 403, message: 'because' })
  assert.deepEqual(answers, [])
})

test('a stream that ends by itself says why, and its last changes count', async (t) => {
  const event = (name, data) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`
  const part = { zone_id: 'A', epoch: 'e', rev: 2, events: [entered(ada(5, 'A'))] }
  const server = createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end(event('status', { state: 'live', since: null }) + event('snapshot', state('A', 1))
      + event('changes', { tx: 't', zones: [part] }) + event('disconnect', { code: 3507, reason: 'permission revoked' }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const zones = watch({ url: `http://127.0.0.1:${server.address().port}`, zones: ['A'], transport: 'sse' })
  await new Promise((resolve) => zones.on('status', ({ state: now }) => now === 'closed' && resolve()))
  assert.deepEqual(zones.status.error, { code: 3507, message: 'permission revoked' })
  assert.equal(zones.find(1).id, 'A')
})

test('an iterator gets every change in order, and ends with the watcher', async (t) => {
  const script = await startWith(t)
  const got = (async () => {
    const txs = []
    for await (const change of script.zones) txs.push(...change.txs)
    return txs
  })()
  await null
  for (let n = 2; n < 20; n++) script.say(pub('A', n, 't' + n, entered(ada(n + 3, 'A'))))
  await script.told()
  script.zones.close()
  assert.deepEqual(await got, Array.from({ length: 18 }, (_, n) => 't' + (n + 2)))
})

test('an iterator that nobody reads holds no more than its bound', async (t) => {
  const script = await startWith(t)
  const iterator = script.zones[Symbol.asyncIterator]()
  const first = iterator.next()
  for (let n = 2; n < 602; n++) script.say(pub('A', n, 't' + n, entered(ada(n + 3, 'A'))))
  await script.told()
  script.zones.close()
  const kept = [(await first).value]
  for await (const change of iterator) kept.push(change)
  assert.ok(kept.length <= 257, String(kept.length))
  const [joined] = kept.filter(({ txs }) => !txs.length)
  assert.deepEqual(joined.zones.map(({ id }) => id), ['A', 'B'])
  assert.deepEqual(kept.at(-1).txs, ['t601'])
})

test('a watcher is an event target, and listeners end', async (t) => {
  const script = await startWith(t)
  const heard = []
  const stop = script.zones.on('change', (change) => heard.push(change))
  script.zones.addEventListener('change', (event) => heard.push(event.detail))
  script.say(pub('A', 2, 't', left(1, 5)), pub('B', 2, 't', entered(ada(5, 'B'))))
  await script.told()
  stop()
  script.say(pub('B', 3, 'u', entered(ada(6, 'B'))))
  await script.told()
  assert.deepEqual(heard, [script.changes[0], script.changes[0], script.changes[1]])
})

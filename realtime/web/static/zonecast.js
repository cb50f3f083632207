// Zones of a Zonecast service, kept as they are there: in a browser, or in Node 18 and later.
//
//   import { watch } from 'https://zonecast.example/zonecast.js'
//   const zones = watch({ zones: ['F1-Z1'] })
//   zones.on('change', (change) => console.log(change.users, zones.get('F1-Z1').users))
//
// Types and what they mean are in zonecast.d.ts, the wire in docs/protocol.md. It is made of
// closures rather than classes, as their variables get short names when it is minified.

const TICK_MS = 500
const OPEN_TIMEOUT_MS = 8_000
const SILENCE_MS = 10_000 // After a ping was due.
const STREAM_SILENCE_MS = 35_000
const SLEPT_MS = 5_000 // A tick this late: the machine slept.
const SETTLE_MS = 1_000
const STEADY_MS = 5_000
const RETRY_MS = 3_000
const STREAM_MAX_ZONES = 64
const QUEUE_MAX_CHANGES = 256
const TIMER_MAX_MS = 2 ** 31 - 1
const GONE = { code: 102, message: 'gone' }

const { parse, stringify } = JSON
const { now } = Date

// --- Zones

// The users that a zone's channel tells of, to the letter. While channels overlap after a
// reconnect, those that are shown (`zone.users`) differ from them.
const exact = Symbol()

const channelOf = (id) => (id === null ? 'unassigned' : 'zone:' + id)

const crc32 = (ascii) => {
  let crc = -1
  for (const char of ascii) {
    crc ^= char.charCodeAt()
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 && 0xedb88320)
  }
  return ~crc >>> 0
}

const makeZone = (id, channel = channelOf(id)) => ({
  id,
  channel,
  name: id,
  attributes: {},
  users: new Map(),
  state: 'loading',
  error: null,
  epoch: '',
  rev: -1,
  [exact]: new Map(),
  digest() {
    let sum = 0
    for (const { id, version } of this[exact].values()) sum += crc32(id + ':' + version)
    return this[exact].size + '-' + (sum % 2 ** 32).toString(16).padStart(8, '0')
  },
})

// A user is shown in one zone, the one that knows its latest version.
const latest = (userId, zones) => {
  let to, user
  for (const zone of zones) {
    const found = zone[exact].get(userId)
    if (found && !(user?.version >= found.version)) [to, user] = [zone, found]
  }
  return [to, user]
}

// --- Links: both tell items of the same form, those of one message together

const openSocket = ({ url, token, WebSocket }, tell, end) => {
  const asked = new Map() // Command id to channel.
  let lastId = 1
  const socket = new WebSocket(url.replace(/^http/, 'ws') + 'connection/websocket')
  const send = (commands) => socket.send(commands.map((command) => stringify(command)).join('\n'))
  socket.onopen = () => send([{ id: lastId, connect: token ? { token } : {} }])
  socket.onerror = () => {}
  socket.onclose = end
  socket.onmessage = (event) => tell(event.data.trim().split('\n').map(read))

  const read = (line) => {
    if (line === '{}') send([{}])
    const { id, push, connect, refresh, subscribe, error } = parse(line)
    const { pub, message, unsubscribe } = push ?? {}
    const channel = push?.channel ?? asked.get(id)
    asked.delete(id)
    if (pub) return { channel, rev: pub.offset, time: pub.time, ...pub.data }
    const taken = unsubscribe && { message: unsubscribe.reason, ...unsubscribe }
    if (!subscribe) return { channel, connect, refresh, status: message?.data, error: error ?? taken }
    const { epoch, offset: rev, data: state, publications = [] } = subscribe
    return { channel, epoch, rev, state, events: publications.flatMap((one) => one.data.events) }
  }

  return {
    ask: (zones) => send(zones.map(({ channel, epoch, rev: offset }) => {
      asked.set(++lastId, channel)
      return { id: lastId, subscribe: { channel, ...(epoch && { recover: true, epoch, offset }) } }
    })),
    leave: ({ channel }) => send([{ id: ++lastId, unsubscribe: { channel } }]),
    refresh: (token) => send([{ id: ++lastId, refresh: { token } }]),
    close: () => socket.close(),
  }
}

// Read by `fetch`: unlike an EventSource it can send a token, and sees why it is refused.
const openStream = ({ url, token, fetch }, tell, end, zones, isAll) => {
  const stop = new AbortController()
  const positions = zones.flatMap(({ id, epoch, rev }) => (epoch ? `${id}=${epoch}:${rev}` : []))
  const named = zones.map((zone) => 'zone=' + zone.id).join('&') + '&since=' + positions

  const run = async () => {
    const answer = await fetch(url + 'sse?' + (isAll ? 'zone=*' : named), {
      headers: token ? { authorization: 'Bearer ' + token } : {},
      cache: 'no-store',
      signal: stop.signal,
    })
    if (!answer.ok) {
      const { detail: message, channel } = await answer.json()
      if (channel) tell([{ channel, error: GONE }])
      return end({ code: answer.status, message })
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
    let text = ''
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return end({ message: 'ended' })
      const events = (text + value).split('\n\n')
      text = events.pop()
      tell(events.flatMap(read))
    }
  }

  const read = (event) => {
    const [, name, json] = /^event: (.*)\ndata: (.*)$/m.exec(event) ?? []
    if (!name) return []
    const data = parse(json)
    if (name === 'snapshot') return { ...data, state: data }
    if (name === 'status') return { status: data, connect: { resumed: isAll ? 0 : positions.length } }
    // What is neither is `disconnect`: why the stream ends.
    return data.zones?.map((part) => ({ ...part, tx: data.tx, channel: channelOf(part.zone_id) })) ?? { error: data }
  }

  run().catch(end)
  return { close: () => stop.abort() }
}

// --- Watching

export function watch({
  url = new URL('.', import.meta.url).href,
  zones: wanted = [],
  token = '',
  transport: preferred = 'auto',
  pauseAfterMs = 30_000,
  backoffMinMs = 500,
  backoffMaxMs = 10_000,
  WebSocket = globalThis.WebSocket,
  fetch = globalThis.fetch,
} = {}) {
  const page = globalThis.document
  const self = new EventTarget()
  const directory = wanted === '*' && makeZone('*', 'zones')
  const zones = new Map() // Channel to zone.
  const shown = new Map() // User id to zone.
  const held = new Set() // Users who left, and may be on their way to a zone of ours.
  const pending = new Set() // Zones asked for, and not answered yet.
  const again = new Map() // Zone to when it is asked for again.
  const over = new AbortController()
  let link, attempt, transport, wakeTimer, pauseTimer, staleSince, silenceMs, refreshMs, beganMs
  let status = { state: 'connecting', since: null, connections: 0, resumed: 0, snapshots: 0 }
  let isOpen = false
  let isReady = false
  let hasSocket = false
  let failures = 0
  let backoffMs = backoffMinMs
  let heardMs = null
  let settledMs = 0
  let tickedMs = now()

  const all = () => [...zones.values()]
  const tell = (type, detail) => self.dispatchEvent(new CustomEvent(type, { detail }))

  const on = (type, listener) => {
    const heed = (event) => listener(event.detail)
    self.addEventListener(type, heed)
    return () => self.removeEventListener(type, heed)
  }

  const say = (news) => {
    const before = stringify(status)
    self.status = status = { ...status, ...news }
    if (stringify(status) !== before) tell('status', status)
  }

  async function* changes() {
    let queue = []
    let wake
    const stops = [
      on('change', (change) => {
        // Who is too slow is told of all zones, and of no single users.
        if (queue.length < QUEUE_MAX_CHANGES) queue.push(change)
        else queue = [{ txs: [], users: [], zones: all() }]
        wake?.()
      }),
      on('status', () => wake?.()),
    ]
    try {
      while (queue.length || status.state !== 'closed') {
        if (queue.length) yield queue.shift()
        else await new Promise((resolve) => (wake = resolve))
      }
    } finally {
      for (const stop of stops) stop()
    }
  }

  // --- The picture

  // Take what belongs together, and tell what changed. A part is a zone, and where it gets by its
  // `state`, its `events`, or both.
  const take = (parts) => {
    const touched = new Set()
    const changed = new Set()
    for (const { zone, state, events = [] } of parts) {
      const known = zone[exact]
      const describe = ({ name, attributes }) => changed.add(Object.assign(zone, { name, attributes }))
      zone.state = 'live'
      zone.error = null
      if (state) {
        for (const id of [...known.keys(), ...zone.users.keys()]) touched.add(id)
        known.clear()
        describe(state.zone ?? zone)
      }
      for (const event of [...(state?.users ?? []).map((user) => ({ user })), ...events]) {
        const { user, user_id: id = user?.id } = event
        if (user) known.set(id, user)
        else known.delete(id)
        touched.add(id)
        if (event.zone) describe(event.zone)
      }
    }
    show(touched, changed, parts)
  }

  const show = (touched, changed, parts = []) => {
    const users = []
    const places = parts.map((part) => part.zone)
    for (const id of touched) {
      const from = shown.get(id)
      const before = from?.users.get(id)
      let [to, user] = latest(id, from ? [from, ...places] : places)
      if (!user) [to, user] = latest(id, all())
      // The zone where they went may not have told it yet.
      if (!user && from?.epoch && isSettling() && zones.size > 1) {
        held.add(id)
        continue
      }
      held.delete(id)
      if (from !== to) from?.users.delete(id)
      to?.users.set(id, user)
      if (to) shown.set(id, to)
      else shown.delete(id)
      if (from === to && stringify(user) === stringify(before)) continue
      users.push({ id, user, before, from: from?.id, to: to?.id })
      for (const zone of [from, to]) if (zone) changed.add(zone)
    }
    const txs = [...new Set(parts.flatMap((part) => part.tx ?? []))]
    const time = parts.at(-1)?.time
    if (changed.size) tell('change', { txs, time, users, zones: [...changed] })
  }

  const isSettling = () => !isOpen || pending.size || now() - settledMs < SETTLE_MS

  // --- Zones that are wanted

  const get = (id) => zones.get(channelOf(id))

  const add = (id) => {
    const zone = get(id) ?? makeZone(id)
    zones.set(zone.channel, zone)
    if (!zone.epoch) ask([zone])
    return zone
  }

  const remove = (id) => {
    const zone = get(id)
    if (!zone) return
    pending.delete(zone)
    again.delete(zone)
    zones.delete(zone.channel)
    if (isOpen) link.leave?.(zone)
    empty(zone)
  }

  const empty = (zone) => {
    zone.epoch = ''
    zone.rev = -1
    take([{ zone, state: {} }])
  }

  // There are these zones, and no others.
  const list = (ids) => {
    for (const { id } of all()) if (id !== null && !ids.includes(id)) remove(id)
    const made = ids.filter((id) => !get(id)).map((id) => makeZone(id))
    for (const zone of made) zones.set(zone.channel, zone)
    ask(made)
  }

  const ask = (wanted) => {
    const asked = wanted.filter((zone) => !pending.has(zone))
    if (!isOpen || !asked.length) return
    for (const zone of asked) pending.add(zone)
    if (link.ask) link.ask(asked)
    else if (!directory) ended({ isSoon: true }) // A stream can't be asked for more.
  }

  // --- What comes in

  // What comes in one message is one change.
  const receive = (items) => {
    let parts = []
    const apply = () => {
      change(parts)
      parts = []
    }
    for (const { channel, epoch, rev, state, events, tx, time, ...item } of items) {
      let zone = channel === 'zones' ? directory : zones.get(channel)
      if (state && directory) zone ??= add(state.zone.zone_id)
      if (rev === undefined) {
        apply()
        heed(zone, item)
      } else if (zone && !(tx && rev <= zone.rev)) {
        if (tx && rev > zone.rev + 1) {
          apply()
          return ended({ message: 'gap' })
        }
        parts.push({ zone, state, events, tx, time })
        if (!tx) answered(zone, state)
        zone.rev = rev
        if (epoch) zone.epoch = epoch
      }
    }
    apply()
    heardMs = now()
    if (!isOpen) return
    if (pending.size) return say({ state: 'catching up' })
    say({ state: staleSince ? 'stale' : 'live', since: staleSince })
    if (!isReady) tell('ready')
    isReady = true
  }

  const answered = (zone, state) => {
    if (!state) say({ resumed: status.resumed + 1 })
    else if (zone.rev >= 0) say({ snapshots: status.snapshots + 1 })
    pending.delete(zone)
    settledMs = now()
  }

  const change = (parts) => {
    take(parts.filter((part) => part.zone !== directory))
    for (const { zone, state, events = [] } of parts) {
      if (state?.zones) list(state.zones.map((one) => one.zone_id))
      for (const { type, zone: made } of events) {
        if (type === 'zone_created') add(made.zone_id)
        if (type === 'zone_deleted' && zone !== directory) refuse(zone, GONE)
      }
    }
  }

  const heed = (zone, { status: { since, zones: ids } = {}, connect, refresh, error }) => {
    if (connect && !isOpen) opened(connect)
    const { ttl } = connect ?? refresh ?? {}
    if (ttl) refreshMs = now() + ttl * 800
    if (since !== undefined) staleSince = since
    if (directory && ids) {
      list(ids)
      ask(all())
    }
    if (zone && error) refuse(zone, error)
    else if (error) ended(error)
  }

  const opened = ({ data, ping, resumed = 0 }) => {
    isOpen = true
    failures = 0
    staleSince = null
    settledMs = now()
    if (ping) {
      hasSocket = true
      silenceMs = ping * 1000 + SILENCE_MS
    }
    say({
      transport,
      node: data?.node,
      error: null,
      connections: status.connections + 1,
      resumed: status.resumed + resumed,
    })
    if (link.ask) ask([directory, ...all()].filter(Boolean))
  }

  const refuse = (zone, error) => {
    const { code, temporary } = error
    const isMissing = code === 102 || code === 2000
    if (code === 2502) zone.epoch = ''
    if (code >= 2500) return ask([zone])
    if (temporary || isMissing) again.set(zone, now() + RETRY_MS)
    if (temporary) return
    pending.delete(zone)
    if (isMissing && directory) return remove(zone.id)
    if (zone.error) return
    if (zone !== directory) empty(zone)
    Object.assign(zone, { state: isMissing ? 'missing' : 'refused', error })
    tell('error', { zone, ...error })
  }

  // --- Connections

  const connect = async () => {
    if (attempt || /paused|closed/.test(status.state)) return
    clearTimeout(wakeTimer)
    const mine = (attempt = {})
    const guarded = (work) => (about) => mine === attempt && work(about)
    beganMs = now()
    try {
      const given = await (token.call ? token() : token)
      if (mine !== attempt) return
      // Where no WebSocket was ever let through, streams are tried in turn.
      const isBlocked = !hasSocket && (status.transport || failures % 2)
      const isStream = !WebSocket || preferred === 'sse' || (preferred === 'auto' && isBlocked)
      const entry = { url: url.replace(/\/?$/, '/'), token: given, WebSocket, fetch }
      const ends = [guarded(receive), guarded(ended)]
      transport = isStream ? 'sse' : 'websocket'
      silenceMs = isStream ? STREAM_SILENCE_MS : OPEN_TIMEOUT_MS
      if (isStream) {
        const asked = all().filter((zone) => zone.id !== null && !zone.error)
        for (const zone of asked) if (!zone.epoch) pending.add(zone)
        link = openStream(entry, ...ends, asked, directory || asked.length > STREAM_MAX_ZONES)
      } else link = openSocket(entry, ...ends)
    } catch (error) {
      guarded(ended)(error)
    }
  }

  const ended = ({ code, reason, message = reason, isSoon }) => {
    const wasOpen = isOpen
    const error = { code, message }
    const isRefused = code > 3500 || (code > 399 && code < 500 && code !== 404 && code !== 429)
    drop()
    if ([101, 109, 401, 3500].includes(code) ? !token.call : isRefused) return close(error)
    if (!wasOpen) failures++
    if (isSoon || (wasOpen && now() - beganMs > STEADY_MS)) backoffMs = backoffMinMs
    const waitMs = isSoon ? 0 : backoffMs * (0.5 + Math.random())
    backoffMs = Math.min(backoffMaxMs, backoffMs * 2)
    say({ state: 'connecting', since: heardMs, error })
    wakeTimer = setTimeout(connect, waitMs)
  }

  const drop = () => {
    const dropped = link
    link = attempt = null
    isOpen = isReady = false
    refreshMs = Infinity
    pending.clear()
    clearTimeout(wakeTimer)
    dropped?.close()
  }

  const renew = async (mine) => {
    refreshMs = Infinity
    const given = await token()
    if (mine === link) link.refresh(given)
  }

  // Twice a second: what no event tells.
  const tick = () => {
    const lateMs = now() - tickedMs
    tickedMs = now()
    if (link && tickedMs - Math.max(heardMs, beganMs) > silenceMs) ended({ message: 'no answer' })
    // Timers of hidden pages are late by design.
    if (link && lateMs > SLEPT_MS && !page?.hidden) ended({ message: 'slept', isSoon: true })
    // Without a new token the service ends the connection in time, and it is tried again.
    if (tickedMs > refreshMs && token.call) renew(link).catch(() => {})
    for (const [zone, atMs] of again) {
      if (tickedMs < atMs || !link?.ask) continue
      again.delete(zone)
      pending.delete(zone)
      ask([zone])
    }
    if (!isSettling()) show(held, new Set())
  }

  const look = () => {
    clearTimeout(pauseTimer)
    if (page.hidden) pauseTimer = setTimeout(pause, Math.min(pauseAfterMs, TIMER_MAX_MS))
    else if (status.state === 'paused') {
      say({ state: 'connecting' })
      connect()
    }
  }

  const pause = () => {
    drop()
    say({ state: 'paused', since: heardMs })
  }

  const close = (error = null) => {
    drop()
    clearInterval(ticking)
    clearTimeout(pauseTimer)
    over.abort()
    say({ state: 'closed', since: heardMs, error })
  }

  const ticking = setInterval(tick, TICK_MS)
  if (page) {
    addEventListener('online', connect, over)
    page.addEventListener('visibilitychange', look, over)
    look()
  }
  if (!directory) for (const id of wanted) add(id)
  connect()
  return Object.assign(self, {
    status,
    ready: new Promise((resolve) => on('ready', () => resolve(self))),
    on,
    add,
    remove,
    get,
    find: (userId) => shown.get(userId),
    close: () => close(),
    [Symbol.iterator]: () => zones.values(),
    [Symbol.asyncIterator]: changes,
  })
}

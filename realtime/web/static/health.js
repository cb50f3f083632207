// The health: how true what is shown is, and what the way here was like.

import { byId, say } from './elements.js'

const DELAYS_KEPT = 200
const CLOCK_SAMPLES = 5
const CLOCK_INTERVAL_MS = 60_000
const CHECKED_AT_ONCE = 6
const CHECK_TRIES = 5
const NAMES = {
  connecting: 'Connecting',
  'catching up': 'Catching up',
  live: 'Live',
  stale: 'Stale',
  paused: 'Paused',
  closed: 'Not connected',
}

export class Health {
  #zones
  #http
  #status
  #delays = []
  #offsetMs = null
  #isShown = false

  constructor(zones, http) {
    this.#zones = zones
    this.#http = http
    this.#tell(zones.status)
    const stops = [
      zones.on('status', (status) => this.#tell(status)),
      zones.on('change', ({ time }) => time && this.#arrived(time)),
    ]
    const timers = [
      setInterval(() => this.#tell(this.#status), 1_000),
      setInterval(() => this.#readClock(), CLOCK_INTERVAL_MS),
    ]
    const check = () => this.#check()
    byId('check').addEventListener('click', check)
    this.close = () => {
      for (const stop of stops) stop()
      timers.forEach(clearInterval)
      byId('check').removeEventListener('click', check)
    }
    this.#readClock()
  }

  // The difference of clocks, by the quickest of some questions, as NTP does it.
  async #readClock() {
    let best = Infinity
    for (let sample = 0; sample < CLOCK_SAMPLES; sample++) {
      const askedMs = Date.now()
      const asked = performance.now()
      const answer = await this.#http.read('clock').catch(() => null)
      const tookMs = performance.now() - asked
      if (!answer || tookMs >= best) continue
      best = tookMs
      this.#offsetMs = answer.unix_ms - (askedMs + tookMs / 2)
    }
    if (best < Infinity) say('clock', `${signed(Math.round(this.#offsetMs))} ms, ± ${Math.ceil(best / 2)} ms`)
  }

  #arrived(committedMs) {
    // A hidden page draws no frame: what waits for one would pile up, and tell how long it was hidden.
    if (this.#offsetMs === null || document.hidden) return
    // The frame in which it is drawn comes after this.
    requestAnimationFrame(() => {
      this.#delays.push(Math.max(0, Date.now() + this.#offsetMs - committedMs))
      if (this.#delays.length > DELAYS_KEPT) this.#delays.shift()
    })
  }

  #tell(status) {
    this.#status = status
    const { state, since, node, transport, connections, resumed, snapshots, error } = status
    const place = byId('state')
    place.dataset.state = state.replace(' ', '-')
    const forS = since ? Math.max(0, Math.round((Date.now() - since) / 1000)) : null
    const old = forS === null ? '' : ` · as of ${new Date(since).toLocaleTimeString()} (${forS} s ago)`
    say('state-text', `${NAMES[state]}${state === 'live' ? '' : old}`)
    place.title = error?.message ?? ''
    say('node', node ?? '–')
    say('transport', { websocket: 'WebSocket', sse: 'event stream' }[transport] ?? '–')
    say('reconnects', String(Math.max(0, connections - 1)))
    say('resumed', String(resumed))
    say('snapshots', String(snapshots))
    const sorted = [...this.#delays].sort((one, other) => one - other)
    if (sorted.length) say('delay', `${Math.round(at(sorted, 0.5))} ms, 95 %: ${Math.round(at(sorted, 0.95))} ms`)
  }

  // Compare each zone with the service, at the same position.
  async #check() {
    const zones = [...this.#zones].filter(({ id, epoch }) => id !== null && epoch)
    let equal = 0
    const differing = []
    say('checked', 'asking …')
    const ask = async () => {
      for (let zone = zones.pop(); zone; zone = zones.pop()) {
        if (await this.#isEqual(zone)) equal++
        else differing.push(zone.id)
      }
    }
    await Promise.all(Array.from({ length: CHECKED_AT_ONCE }, ask))
    const at = new Date().toLocaleTimeString()
    say('checked', differing.length
      ? `${at}: ${differing.length} differ: ${differing.slice(0, 5).join(', ')}`
      : `${at}: ${equal} of ${equal} zones equal`)
  }

  async #isEqual(zone) {
    for (let attempt = 0; attempt < CHECK_TRIES; attempt++) {
      const found = await this.#http
        .read(`zones/${zone.id}/digest?min=${zone.epoch}:${zone.rev}`)
        .catch(() => null)
      if (found && found.epoch === zone.epoch && found.rev === zone.rev) return found.digest === zone.digest()
      // Either has moved on meanwhile.
      await new Promise((resolve) => setTimeout(resolve, 50 * 2 ** attempt))
    }
    return false
  }
}

const at = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]
const signed = (number) => (number > 0 ? `+${number}` : String(number))

export function showDetails() {
  const isShown = byId('health').hidden
  byId('health').hidden = !isShown
  byId('state').setAttribute('aria-expanded', String(isShown))
}

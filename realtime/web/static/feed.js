// The feed: what happened, newest first.

import { byId, element, nameOfZone } from './elements.js'

const MAX_LINES = 60
const MAX_AT_ONCE = 6
const PAUSE_MS = 250

export class Feed {
  #place = byId('feed')
  #zones
  #lines = []
  #left = 0

  constructor(zones) {
    this.#zones = zones
  }

  take({ users, txs, time }) {
    if (!txs.length) return // What was missed, or a state: nobody saw it happen.
    // A crowd is told of together, a single move at once as it seems.
    if (!this.#lines.length && !this.#left) setTimeout(() => this.#show(), PAUSE_MS)
    for (const user of users) {
      const text = this.#describe(user)
      if (!text) continue
      this.#lines.push([text, time ?? Date.now()])
      if (this.#lines.length > MAX_AT_ONCE) {
        this.#lines.shift()
        this.#left++
      }
    }
  }

  #name(id) {
    const zone = this.#zones.get(id)
    return zone ? nameOfZone(zone) : id
  }

  #describe({ id, user, before, from, to }) {
    const name = (user ?? before)?.name ?? `user ${id}`
    if (from === undefined) return [name, ` came to ${this.#name(to)}`]
    if (to === undefined) return [name, ` left ${this.#name(from)}`]
    if (from !== to) return [name, ` ${this.#name(from)} → ${this.#name(to)}`]
    if (user.name !== before.name) return [before.name, ` is now ${user.name}`]
    return [name, ' changed']
  }

  #show() {
    const made = this.#lines.map(([[name, what], atMs]) => element('li', {},
      element('time', {}, new Date(atMs).toLocaleTimeString()),
      element('p', {}, element('b', {}, name), what)))
    if (this.#left) made.unshift(element('li', { className: 'omitted' }, `${this.#left} more at the same time`))
    this.#lines = []
    this.#left = 0
    this.#place.prepend(...made.reverse())
    while (this.#place.childElementCount > MAX_LINES) this.#place.lastElementChild.remove()
  }
}

// The past of tiles: how many people a zone had before the page was opened.

import { WINDOW_MS } from './sparkline.js'

const CHANGES = 200
const AT_ONCE = 3

export class Past {
  #http
  #waiting = []
  #asking = 0

  constructor(http) {
    this.#http = http
  }

  // Read a tile's past, once, when it is its turn.
  ask(tile) {
    this.#waiting.push(tile)
    this.#next()
  }

  async #next() {
    if (this.#asking >= AT_ONCE || !this.#waiting.length) return
    this.#asking++
    const tile = this.#waiting.shift()
    await this.#read(tile).catch(() => {}) // It is an ornament, and begins now instead.
    this.#asking--
    this.#next()
  }

  async #read({ zone, sparkline }) {
    const { id, epoch, rev, users } = zone
    if (id === null || !epoch) return
    const page = await this.#http.read(
      `zones/${id}/changes?epoch=${epoch}&since_rev=${Math.max(0, rev - CHANGES)}&limit=${CHANGES}`,
    )
    let count = users.size
    const points = []
    for (const { rev: at, time, events } of page.changes.reverse()) {
      // What came after the count is in the line already.
      if (at > rev) continue
      points.unshift([time, count])
      for (const { type } of events) count += { left: 1, entered: -1 }[type] ?? 0
    }
    if (!points.length) points.push([Date.now() - WINDOW_MS, count])
    else points.unshift([points[0][0] - 1, count])
    sparkline.begin(points)
    sparkline.draw()
  }
}

// Sparklines: how many people a zone had over the last minutes.

const SVG = 'http://www.w3.org/2000/svg'
const WIDTH = 120
const HEIGHT = 24
export const WINDOW_MS = 10 * 60_000
const MAX_POINTS = 120

export class Sparkline {
  // Pairs of a time and the count from then on.
  #points = []
  #line
  isBlank = true

  constructor() {
    this.svg = document.createElementNS(SVG, 'svg')
    this.svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`)
    this.svg.setAttribute('preserveAspectRatio', 'none')
    this.svg.setAttribute('class', 'sparkline')
    this.svg.setAttribute('aria-hidden', 'true')
    this.#line = document.createElementNS(SVG, 'polyline')
    this.svg.append(this.#line)
  }

  note(count, atMs = Date.now()) {
    const last = this.#points.at(-1)
    if (last?.[1] === count) return
    // What changes faster than can be drawn is one point.
    if (last && atMs - last[0] < WINDOW_MS / MAX_POINTS) last[1] = count
    else this.#points.push([atMs, count])
    this.#forget(atMs - WINDOW_MS) // Not only when it is drawn: it may never be seen.
  }

  // Let go of what came before; the last of it is the count that there was then.
  #forget(from) {
    while (this.#points.length > 1 && this.#points[1][0] < from) this.#points.shift()
  }

  // Put what was before the page was opened in front: pairs of a time and a count, in order.
  begin(points) {
    const first = this.#points[0]?.[0] ?? Date.now()
    const earlier = points.filter(([atMs]) => atMs < first).slice(-MAX_POINTS)
    this.#points.unshift(...earlier)
  }

  draw(nowMs = Date.now()) {
    const from = nowMs - WINDOW_MS
    this.isBlank = false
    this.#forget(from)
    if (!this.#points.length) return
    const most = Math.max(1, ...this.#points.map(([, count]) => count))
    const y = (count) => (HEIGHT - 2 - (count / most) * (HEIGHT - 4)).toFixed(1)
    const drawn = []
    let before
    for (const [atMs, count] of this.#points) {
      const x = (Math.max(0, (atMs - from) / WINDOW_MS) * WIDTH).toFixed(1)
      if (before !== undefined) drawn.push(`${x},${before}`)
      before = y(count)
      drawn.push(`${x},${before}`)
    }
    drawn.push(`${WIDTH},${before}`)
    this.#line.setAttribute('points', drawn.join(' '))
  }
}

// The board: zones as tiles, people as chips that travel from tile to tile.

import { byId, element, nameOfZone, say } from './elements.js'
import { Past } from './past.js'
import { makeChip, Tile } from './tile.js'

const TRAVEL_MS = 520
const MAX_TRAVELLING = 40
const FRAME_BUDGET_MS = 3
const SMOOTH_MS = 20 // From one frame to the next, where the page keeps up.
const REST = 4 // Times as long as a frame took: what is left to the browser, and to motions.
const REST_MAX_MS = 400
const DRAW_INTERVAL_MS = 5_000
const ARROWS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }

// How many people a tile shows, by how many tiles there are.
function chipsPerTile(tiles) {
  return tiles <= 12 ? 40 : tiles <= 40 ? 18 : 6
}

export class Board {
  zoneFilter = ''
  nameFilter = ''
  #place = byId('board')
  #tiles = new Map() // Zone to tile.
  #chips = new Map() // User id to chip.
  #dirty = new Set() // Zones whose tile is out of date.
  #moved = new Set() // Ids of users who changed their tile since the last frame.
  #claims = new Map() // User id to where they are shown before the service has said so.
  #travelling = 0
  #travelLimit = MAX_TRAVELLING
  #isAwaited = false
  #restUntilMs = 0
  #onOpen
  #past
  #made = 0
  #seen = new IntersectionObserver((entries) => this.#look(entries), { rootMargin: '120px' })
  #calm = matchMedia('(prefers-reduced-motion: reduce)')

  constructor(http, onOpen) {
    this.#past = new Past(http)
    this.#onOpen = onOpen
    this.#place.addEventListener('keydown', (event) => this.#walk(event))
    setInterval(() => this.#draw(), DRAW_INTERVAL_MS)
  }

  // Take a change of the zones: what is shown follows in the next frame.
  take({ zones, users }) {
    for (const zone of zones) this.#dirty.add(zone)
    for (const { id, user, from, to } of users) {
      if (from !== undefined && to !== undefined && from !== to) this.#moved.add(id)
      const claim = this.#claims.get(id)
      if (claim && (!user || to === claim.zone.id)) this.#claims.delete(id)
    }
    this.#await()
  }

  // Show a user in another zone already; until the service says so, or `release`.
  claim(user, zone) {
    const from = this.#chips.get(user.id)?.zone
    this.#claims.set(user.id, { user, zone })
    this.#redraw(user.id, [from, zone])
  }

  // Show a user where they are, unless they were claimed for another zone meanwhile.
  release(userId, zone) {
    const claim = this.#claims.get(userId)
    if (claim?.zone !== zone) return
    this.#claims.delete(userId)
    const zones = [...this.#tiles.keys()].filter(({ users }) => users.has(userId))
    this.#redraw(userId, [zone, ...zones])
  }

  #redraw(userId, zones) {
    this.#moved.add(userId)
    for (const zone of zones) if (zone) this.#dirty.add(zone)
    this.#await()
  }

  #usersIn(zone) {
    const users = [...zone.users.values()]
    if (!this.#claims.size) return users
    const here = users.filter(({ id }) => (this.#claims.get(id)?.zone ?? zone) === zone)
    for (const { user, zone: claimed } of this.#claims.values()) {
      if (claimed === zone && !zone.users.has(user.id)) here.push(user)
    }
    return here
  }

  // Show these zones: all there are.
  list(zones) {
    const wanted = new Set(zones)
    for (const [zone, tile] of this.#tiles) {
      if (wanted.has(zone)) continue
      this.#seen.unobserve(tile.element)
      tile.element.remove()
      this.#tiles.delete(zone)
      this.#dirty.delete(zone)
    }
    for (const zone of wanted) if (!this.#tiles.has(zone)) this.#add(zone)
    const sorted = [...this.#tiles.values()].sort((one, other) => compare(one.zone, other.zone))
    let place = this.#place.firstElementChild
    for (const { element: tile } of sorted) {
      if (tile === place) place = place.nextElementSibling
      else this.#place.insertBefore(tile, place)
    }
    const count = this.#tiles.size
    this.#place.dataset.density = count <= 12 ? 'roomy' : count <= 40 ? 'middle' : 'dense'
    this.filter()
  }

  filter({ zone = this.zoneFilter, name = this.nameFilter } = {}) {
    this.zoneFilter = zone
    this.nameFilter = name
    for (const shown of this.#tiles.keys()) this.#dirty.add(shown)
    this.#await()
  }

  tileOf(zone) {
    return this.#tiles.get(zone)
  }

  #add(zone) {
    const tile = new Tile(zone, ++this.#made, this.#onOpen)
    tile.element.tile = tile
    this.#tiles.set(zone, tile)
    this.#seen.observe(tile.element)
    this.#dirty.add(zone)
  }

  #look(entries) {
    for (const { target: { tile }, isIntersecting } of entries) {
      if (isIntersecting && !tile.wasSeen) this.#past.ask(tile)
      tile.wasSeen ||= isIntersecting
      tile.isVisible = isIntersecting
      tile.element.classList.toggle('unseen', !isIntersecting)
    }
  }

  #await() {
    if (this.#isAwaited) return
    this.#isAwaited = true
    const restMs = this.#restUntilMs - performance.now()
    const ask = () => requestAnimationFrame(() => this.#frame())
    if (restMs > 0) setTimeout(ask, restMs)
    else ask()
  }

  // Where a frame took long, fewer people travel, and changes wait longer to be shown together:
  // so the page stays smooth, and shows each of them a little later.
  #pace(startedMs) {
    requestAnimationFrame(() => {
      const tookMs = performance.now() - startedMs
      const isSlow = tookMs > SMOOTH_MS
      this.#travelLimit = Math.max(4, Math.min(MAX_TRAVELLING, this.#travelLimit * (isSlow ? 0.7 : 1.1)))
      this.#restUntilMs = isSlow ? performance.now() + Math.min(REST_MAX_MS, REST * tookMs) : 0
    })
  }

  // Bring tiles up to date: those that are seen first, the others as far as there is time.
  #frame() {
    this.#isAwaited = false
    const startedMs = performance.now()
    this.#pace(startedMs)
    const dirty = [...this.#dirty].sort((one, other) => this.#rank(other) - this.#rank(one))
    const starts = this.#starts()
    for (const zone of dirty) {
      if (!this.#isSeen(zone) && performance.now() - startedMs > FRAME_BUDGET_MS) break
      this.#dirty.delete(zone)
      this.#update(zone)
    }
    this.#travel(starts)
    this.#moved.clear()
    this.#count()
    if (this.#dirty.size) this.#await()
  }

  #isSeen(zone) {
    return this.#tiles.get(zone)?.isVisible ?? false
  }

  #rank(zone) {
    return this.#isSeen(zone) ? 1 : 0
  }

  #update(zone) {
    const tile = this.#tiles.get(zone)
    if (!tile) return
    tile.describe()
    tile.update(this.#usersIn(zone), chipsPerTile(this.#tiles.size), this.nameFilter, (user) => {
      if (!this.#chips.has(user.id)) this.#chips.set(user.id, makeChip(user))
      const chip = this.#chips.get(user.id)
      chip.classList.toggle('pending', this.#claims.has(user.id))
      return chip
    })
    if (!tile.has(this.zoneFilter)) tile.element.hidden = true
  }

  // Where chips are before they move: each travels once, however many tiles it changed.
  #starts() {
    const starts = new Map()
    if (this.#calm.matches) return starts
    const room = this.#travelLimit - this.#travelling
    for (const id of this.#moved) {
      const chip = this.#chips.get(id)
      if (starts.size >= room) break
      if (chip?.isConnected && this.#isSeen(chip.zone)) starts.set(chip, chip.getBoundingClientRect())
    }
    return starts
  }

  #travel(starts) {
    const ends = [...starts].map(([chip, start]) => [chip, start, chip.isConnected && chip.getBoundingClientRect()])
    for (const [chip, start, end] of ends) {
      if (!end?.width || (Math.abs(start.left - end.left) < 1 && Math.abs(start.top - end.top) < 1)) continue
      const tile = chip.closest('.tile')
      const offset = `translate(${start.left - end.left}px, ${start.top - end.top}px)`
      this.#travelling++
      tile.classList.add('arriving')
      chip.classList.add('travelling')
      const motion = chip.animate([{ transform: offset }, { transform: 'none' }], {
        duration: TRAVEL_MS,
        easing: 'cubic-bezier(.3, 0, .1, 1)',
      })
      motion.id = 'travel'
      motion.onfinish = motion.oncancel = () => {
        this.#travelling--
        chip.classList.remove('travelling')
        if (!tile.querySelector('.travelling')) tile.classList.remove('arriving')
      }
    }
  }

  #count() {
    let people = 0
    let zones = 0
    for (const zone of this.#tiles.keys()) {
      people += zone.users.size
      if (zone.id !== null) zones++
    }
    say('people-count', people.toLocaleString())
    say('zone-count', zones.toLocaleString())
    // Chips of people who are gone, or not shown any more, are let go of now and then.
    if (this.#chips.size > 2 * people + 500) {
      for (const [id, chip] of this.#chips) if (!chip.isConnected) this.#chips.delete(id)
    }
  }

  #draw() {
    for (const tile of this.#tiles.values()) if (tile.isVisible) tile.sparkline.draw()
  }

  // One tab stop a tile; the arrows go from person to person, Enter opens.
  #walk(event) {
    const chip = event.target.closest?.('[data-user-id]')
    const step = ARROWS[event.key]
    if (!chip || !step) return
    const next = step > 0 ? chip.nextElementSibling : chip.previousElementSibling
    if (!next) return
    event.preventDefault()
    chip.inner.tabIndex = -1
    next.inner.tabIndex = 0
    next.inner.focus()
  }
}

const byName = new Intl.Collator(undefined, { numeric: true })

function compare(one, other) {
  if (one.id === null || other.id === null) return one.id === null ? 1 : -1
  return byName.compare(nameOfZone(one), nameOfZone(other))
}

// The dashboard: zones that are watched, and what shows them.

import { watch } from '../zonecast.js'
import { Board } from './board.js'
import { Operator } from './operator.js'
import { ZoneDialog } from './zone-dialog.js'
import { byId, toast } from './elements.js'
import { Feed } from './feed.js'
import { Health, showDetails } from './health.js'
import { Http } from './http.js'

const LIST_INTERVAL_MS = 15_000
const PAGE = 1_000

const http = new Http()
let board
let watching

// Watch all zones; or, where the token grants only some, those that it lists.
async function start() {
  watching?.close()
  const zones = watch({ url: base(), zones: '*', token: http.token && (() => http.token) })
  zones.add(null)
  begin(zones)
  zones.on('error', async ({ zone, code }) => {
    if (zone.id !== '*' || code !== 103) return
    watching.close()
    const some = watch({ url: base(), zones: await listed(), token: http.token && (() => http.token) })
    begin(some)
    watching.timer = setInterval(() => follow(some), LIST_INTERVAL_MS)
  })
}

function begin(zones) {
  const feed = new Feed(zones)
  const health = new Health(zones, http)
  const show = () => board.list([...zones].filter(({ id, users }) => id !== null || users.size))
  zones.on('change', (change) => {
    if (change.zones.some((zone) => !board.tileOf(zone) || !zones.get(zone.id)) || change.zones.some(({ id }) => id === null)) show()
    board.take(change)
    feed.take(change)
  })
  zones.on('status', ({ state, error }) => {
    document.body.dataset.state = state
    if (state === 'closed' && error) toast(`Not connected any more: ${error.message}`, true)
  })
  zones.ready.then(() => {
    show()
    byId('empty').hidden = zones[Symbol.iterator]().next().done === false && [...zones].some(({ id }) => id !== null)
    byId('empty').textContent = 'There are no zones yet.'
  })
  watching = {
    zones,
    close() {
      clearInterval(this.timer)
      health.close()
      zones.close()
      board.list([])
    },
  }
  window.zones = zones
}

async function listed() {
  const ids = []
  for (;;) {
    const { zones } = await http.read(`zones?limit=${PAGE}&skip=${ids.length}`)
    ids.push(...zones.map(({ zone_id: id }) => id))
    if (zones.length < PAGE) return ids
  }
}

async function follow(zones) {
  const ids = new Set(await listed().catch(() => []))
  for (const id of ids) zones.add(id)
}

const base = () => new URL('.', document.baseURI).href

function choose(theme) {
  document.documentElement.dataset.theme = theme
  localStorage.setItem('theme', theme)
}

board = new Board((zone) => new ZoneDialog(zone, operator, http))
const operator = new Operator(http, board, () => watching.zones)
byId('state').addEventListener('click', showDetails)
byId('zone-filter').addEventListener('input', ({ target }) => board.filter({ zone: target.value.trim().toLowerCase() }))
byId('name-filter').addEventListener('input', ({ target }) => board.filter({ name: target.value.trim().toLowerCase() }))
if (localStorage.getItem('theme')) choose(localStorage.getItem('theme'))
byId('theme').addEventListener('click', () => {
  const { theme } = document.documentElement.dataset
  const isDark = theme ? theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
  choose(isDark ? 'light' : 'dark')
})
start()

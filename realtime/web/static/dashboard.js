// The dashboard: zones that are watched, and what shows them.

import { watch } from '../zonecast.js'
import { Access, isRefusal } from './access.js'
import { Board } from './board.js'
import { byId, say, toast } from './elements.js'
import { Feed } from './feed.js'
import { Health, showDetails } from './health.js'
import { Http } from './http.js'
import { Operator } from './operator.js'
import { ZoneDialog } from './zone-dialog.js'

const LIST_INTERVAL_MS = 15_000
const PAGE = 1_000

const http = new Http()
const board = new Board(http, (zone) => new ZoneDialog(zone, operator, http))
const operator = new Operator(http, board, () => watched)
const access = new Access(http, enter)
let watched = null
let stop = () => {}

// Watch all zones; or, where only some are granted, those that the service lists.
function enter() {
  const options = { url: new URL('.', document.baseURI).href, token: http.token }
  if (access.ticket) Object.assign(options, { WebSocket: access.socketClass(), transport: 'websocket', pauseAfterMs: Infinity })
  if (access.ticketZones) return show(watch({ ...options, zones: access.ticketZones }))
  const zones = watch({ ...options, zones: '*' })
  zones.add(null)
  zones.on('error', async ({ zone, code }) => {
    // Not all are granted, or not any more.
    if (zone.id !== '*' || (code !== 103 && code !== 2001)) return
    try {
      const ids = await listed()
      if (watched !== zones) return // Somebody signed in meanwhile.
      const some = watch({ ...options, zones: ids })
      show(some)
      const timer = setInterval(() => follow(some), LIST_INTERVAL_MS)
      some.on('status', ({ state }) => state === 'closed' && clearInterval(timer))
    } catch (error) {
      toast(`The zones can't be listed: ${error.message}`, true)
    }
  })
  show(zones)
}

// Show these zones, in the place of any others.
function show(zones) {
  stop()
  watched = zones
  const feed = new Feed(zones)
  const health = new Health(zones, http)
  const isShown = (zone) => zones.get(zone.id) === zone && (zone.id === null ? zone.users.size > 0 : /live|loading/.test(zone.state))
  const list = () => {
    const seen = [...zones].filter(isShown)
    board.list(seen)
    byId('empty').hidden = zones.status.state !== 'live' || seen.length > 0
    say('empty', 'There are no zones that you may see yet.')
  }
  const stops = [
    zones.on('change', (change) => {
      if (change.zones.some((zone) => isShown(zone) !== Boolean(board.tileOf(zone)))) list()
      board.take(change)
      feed.take(change)
    }),
    zones.on('error', list),
    zones.on('ready', list),
    zones.on('status', ({ state, error }) => {
      document.body.dataset.state = state
      if (state !== 'closed') return
      list()
      if (isRefusal(error ?? {})) access.ask(error)
      else if (error) toast(`Not connected any more: ${error.message || error.code}. Load the page again to try.`, true)
    }),
  ]
  stop = () => {
    for (const each of stops) each()
    health.close()
    zones.close()
    board.list([])
  }
}

async function listed() {
  const ids = []
  for (;;) {
    const { zones } = await http.read(`zones?limit=${PAGE}&skip=${ids.length}`)
    ids.push(...zones.map(({ zone_id: id }) => id))
    if (zones.length < PAGE) return ids
  }
}

// Zones that were made meanwhile; those that are gone say so themselves.
async function follow(zones) {
  for (const id of await listed().catch(() => [])) zones.add(id)
}

function choose(theme) {
  document.documentElement.dataset.theme = theme
  localStorage.setItem('zonecast-theme', theme)
}

function listen() {
  const lower = (work) => ({ target }) => work(target.value.trim().toLowerCase())
  byId('state').addEventListener('click', showDetails)
  byId('zone-filter').addEventListener('input', lower((zone) => board.filter({ zone })))
  byId('name-filter').addEventListener('input', lower((name) => board.filter({ name })))
  byId('theme').addEventListener('click', () => {
    const { theme } = document.documentElement.dataset
    const isDark = theme ? theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
    choose(isDark ? 'light' : 'dark')
  })
  const chosen = localStorage.getItem('zonecast-theme')
  if (chosen) choose(chosen)
}

listen()
access.start()

// A screen of the module that the node serves, which a test drives as it does `sdk_screen.mjs`:
//
//   {"do": "watch", "url": "http://...", "zones": ["A", "B"], ...other options}
//   {"do": "report"}    answers with the materialised zones
//   {"do": "add" | "remove", "zone": "C"}
//   {"do": "stop"}

import { createInterface } from 'node:readline'
import WebSocket from 'ws'
import { watch } from '../../realtime/web/static/zonecast.js'

let zones = null
let token = ''

function tell(message) {
  process.stdout.write(JSON.stringify(message) + '\n')
}

// A change as it is told, with the versions of users and the counts of zones after it.
function toldOf({ txs, time, users, zones }) {
  return {
    event: 'change',
    txs,
    time,
    users: users.map(({ id, user, from, to }) => ({ id, version: user?.version, from, to })),
    zones: zones.map((zone) => [zone.id, [...zone.users.keys()]]),
  }
}

function start({ do: _, token: given, renews, ...options }) {
  token = given ?? ''
  const renewed = () => {
    tell({ event: 'token wanted' })
    return token
  }
  zones = watch({
    WebSocket,
    backoffMinMs: 20,
    backoffMaxMs: 200,
    token: renews ? renewed : token,
    ...options,
  })
  let resumed = 0
  let snapshots = 0
  zones.on('status', (status) => {
    for (; resumed < status.resumed; resumed++) tell({ event: 'subscribed', wasRecovering: true, recovered: true })
    for (; snapshots < status.snapshots; snapshots++) {
      tell({ event: 'subscribed', wasRecovering: true, recovered: false })
    }
    tell({ event: 'status', ...status })
  })
  zones.on('change', (change) => tell(toldOf(change)))
  zones.on('error', ({ zone, ...error }) => tell({ ...error, event: 'error', zone: zone.id }))
  zones.ready.then(() => tell({ event: 'ready' }))
}

function report() {
  const pictures = {}
  for (const { id, epoch, rev, users } of zones) {
    const versions = Object.fromEntries([...users.values()].map((user) => [user.id, user.version]))
    pictures[id] = { epoch, rev, users: versions, gaps: 0, repeated: 0 }
  }
  const digests = Object.fromEntries([...zones].map((zone) => [zone.id, zone.digest()]))
  tell({ event: 'report', zones: pictures, digests, status: zones.status })
}

const commands = {
  watch: start,
  report,
  add: ({ zone }) => zones.add(zone),
  remove: ({ zone }) => zones.remove(zone),
  token: (command) => { token = command.token },
  close: () => zones.close(),
  stop: () => process.exit(0),
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line)
    commands[command.do](command)
  })
  .on('close', () => process.exit(0))

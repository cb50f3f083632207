// What users of `zonecast.js` write: it has to be accepted, and what is marked has to be refused.

import { watch, type Change, type Zone } from '../../../realtime/web/static/zonecast.js'

const zones = watch({ url: 'http://127.0.0.1:8000', zones: ['F1-Z1', null], token: async () => 'one' })
const stop: () => void = zones.on('change', (change) => {
  for (const { id, user, from, to } of change.users) {
    const name: string = user?.name ?? `user ${id}`
    const isMove: boolean = from !== to
    console.log(name, isMove, change.txs.length, change.time?.toFixed())
  }
})
stop()

zones.on('status', ({ state, since }) => console.log(state, since ?? 0))
zones.on('error', ({ zone, code, message }) => console.log(zone.id, code, message))

async function follow(): Promise<void> {
  await zones.ready
  for await (const change of zones) take(change)
}

function take(change: Change): void {
  for (const zone of change.zones) show(zone)
}

function show(zone: Zone): void {
  for (const user of zone.users.values()) console.log(user.name, user.zone_id)
  console.log(zone.digest(), zones.find(17)?.id, zones.get(null)?.users.size)
}

for (const zone of zones) show(zone)
zones.add('F2-Z1')
zones.remove('F2-Z1')
zones.close()
void follow()
watch({ zones: '*' })

// @ts-expect-error -- no such event.
zones.on('changed', () => {})
// @ts-expect-error -- a zone's users belong to the module.
zones.get('F1-Z1')?.users.clear()
// @ts-expect-error -- a list of zones, or all of them.
watch({ zones: 'F1-Z1' })
// @ts-expect-error -- no such option.
watch({ zone: 'F1-Z1' })

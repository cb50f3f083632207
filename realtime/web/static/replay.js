// A replay: a zone as it was, made of its retained changes.

const PAGE = 300
const MAX_CHANGES = 6_000

// Read a zone's changes up to where it is now, the latest `MAX_CHANGES` of them at most.
async function readChanges(http, zone) {
  const { epoch, rev } = zone
  let since = Math.max(0, rev - MAX_CHANGES)
  const changes = []
  while (since < rev) {
    try {
      const page = await http.read(`zones/${zone.id}/changes?epoch=${epoch}&since_rev=${since}&limit=${PAGE}`)
      if (!page.changes.length) break
      changes.push(...page.changes)
      since = page.rev
    } catch (error) {
      // What was pruned is gone: begin where it begins.
      if (error.status !== 410 || error.problem.reason !== 'compacted' || changes.length) throw error
      since = error.problem.floor
    }
  }
  return changes.filter((change) => change.rev <= rev)
}

export class Replay {
  #now // The ids of who was there after the last change.
  #people

  static async of(http, zone, everybody) {
    const users = new Map(zone.users)
    return new Replay(await readChanges(http, zone), users, everybody)
  }

  // `left` has no name, so names come from elsewhere.
  constructor(changes, users, everybody) {
    this.changes = changes
    this.#people = new Map(everybody)
    for (const { events } of changes) for (const { user } of events) if (user) this.#people.set(user.id, user)
    for (const user of users.values()) this.#people.set(user.id, user)
    this.#now = [...users.keys()]
  }

  get length() {
    return this.changes.length
  }

  // The time after `index` changes, Unix milliseconds.
  timeAt(index) {
    return this.changes[Math.max(0, index - 1)]?.time ?? Date.now()
  }

  // The people after `index` changes. The way leads back from the last: to keep who was there after
  // each would take a copy of all people for each of thousands of changes.
  peopleAt(index) {
    const here = new Set(this.#now)
    for (const { events } of this.changes.slice(index).reverse()) {
      for (const event of [...events].reverse()) {
        if (event.type === 'entered') here.delete(event.user.id)
        else if (event.type === 'left') here.add(event.user_id)
      }
    }
    return [...here].map((id) => this.#people.get(id) ?? { id, name: `user ${id}` })
  }
}

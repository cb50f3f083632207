// The operator: what may be done with zones and people, by mouse and by keyboard alike.

import { byId, element, nameOfZone, toast } from './elements.js'
import { field, form, openDialog } from './dialogs.js'

const CLAIM_MAX_MS = 10_000
const NOWHERE = ''

export class Operator {
  #http
  #board
  #zones
  #dragged = null

  constructor(http, board, zones) {
    this.#http = http
    this.#board = board
    this.#zones = zones
    byId('add-zone').addEventListener('click', () => this.#addZone())
    byId('add-person').addEventListener('click', () => this.#addPerson())
    const place = byId('board')
    place.addEventListener('click', ({ target }) => this.#open(target))
    place.addEventListener('keydown', (event) => {
      if ((event.key === 'Enter' || event.key === ' ') && this.#open(event.target)) event.preventDefault()
    })
    place.addEventListener('dragstart', (event) => this.#drag(event))
    place.addEventListener('dragend', () => this.#over(null))
    place.addEventListener('dragover', (event) => {
      if (!this.#dragged) return
      event.preventDefault()
      this.#over(event.target.closest('.tile'))
    })
    place.addEventListener('drop', (event) => this.#drop(event))
  }

  // A person's dialog: the same as dragging, and more.
  openPerson(user) {
    const places = this.#zoneSelect(this.#zones().find(user.id)?.id ?? null)
    const name = element('input', { name: 'name', value: user.name, required: true, maxLength: 200 })
    const remove = element('button', { type: 'button', className: 'danger operator' }, 'Remove this person')
    const problem = element('p', { className: 'problem', role: 'alert' })
    const dialog = openDialog(user.name,
      form([field('Move to', places)], 'Move', ({ zone_id: id }) => {
        dialog.close()
        return this.move(user, this.#zones().get(id === NOWHERE ? null : id))
      }),
      form([field('Name', name)], 'Rename', async ({ name: given }) => {
        await this.#http.ask('PATCH', `users/${user.id}`, { name: given.trim() })
        dialog.close()
      }),
      remove, problem,
      element('p', { className: 'note' }, `User ${user.id}, global id ${user.global_id}, version ${user.version}`))
    remove.addEventListener('click', async () => {
      if (!remove.dataset.asked) {
        remove.dataset.asked = 'yes'
        remove.textContent = 'Really remove?'
        return
      }
      try {
        await this.#http.ask('DELETE', `users/${user.id}`)
        dialog.close()
      } catch (error) {
        problem.textContent = error.message
      }
    })
  }

  // Move a person: shown at once, and taken back with the reason when it is refused.
  async move(user, zone) {
    if (!zone || this.#zones().find(user.id) === zone) return
    this.#board.claim(user, zone)
    try {
      await this.#http.ask('POST', `users/${user.id}/transfer`, { zone_id: zone.id })
    } catch (error) {
      this.#board.release(user.id, zone)
      toast(`${user.name} was not moved to ${nameOfZone(zone)}: ${error.message}`, true)
      return
    }
    // It is done; what the service tells of it may take until there is a connection again.
    setTimeout(() => this.#board.release(user.id, zone), CLAIM_MAX_MS)
  }

  // Everybody who is shown, by id.
  everybody() {
    return new Map([...this.#zones()].flatMap(({ users }) => [...users]))
  }

  renameZone(zone, name) {
    return this.#http.ask('PATCH', `zones/${zone.id}`, { name })
  }

  #open(target) {
    const chip = target.closest('.chip')?.closest('[data-user-id]')
    if (chip) this.openPerson(chip.user)
    return Boolean(chip)
  }

  #zoneSelect(chosen) {
    const zones = [...this.#zones()].filter(({ id }) => id !== null)
    const options = zones.sort((one, other) => nameOfZone(one).localeCompare(nameOfZone(other), undefined, { numeric: true }))
      .map((zone) => element('option', { value: zone.id, selected: zone.id === chosen }, `${nameOfZone(zone)} (${zone.id})`))
    const nowhere = this.#zones().get(null)
    if (nowhere) options.push(element('option', { value: NOWHERE, selected: chosen === null }, 'No zone'))
    return element('select', { name: 'zone_id' }, ...options)
  }

  #addZone() {
    const id = element('input', { name: 'zone_id', required: true, pattern: '[A-Za-z0-9._\\-]{1,64}', placeholder: 'F1-Z1', autocomplete: 'off' })
    const name = element('input', { name: 'name', required: true, maxLength: 200, placeholder: 'Lobby', autocomplete: 'off' })
    const dialog = openDialog('New zone', form([field('Id', id), field('Name', name)], 'Make it', async (zone) => {
      await this.#http.ask('POST', 'zones', zone)
      dialog.close()
      toast(`${zone.name} is there`)
      this.#zones().add(zone.zone_id)
    }))
  }

  #addPerson() {
    let next = 1
    for (const { users } of this.#zones()) for (const user of users.values()) next = Math.max(next, user.global_id + 1)
    const name = element('input', { name: 'name', required: true, maxLength: 200, placeholder: 'Ada Lovelace', autocomplete: 'off' })
    const number = element('input', { name: 'global_id', required: true, type: 'number', min: 1, value: next })
    const fields = [field('Name', name), field('Global id', number), field('Zone', this.#zoneSelect(undefined))]
    const dialog = openDialog('Add person', form(fields, 'Add', async ({ name: given, global_id: id, zone_id: zone }) => {
      await this.#http.ask('POST', 'users', { name: given.trim(), global_id: Number(id), zone_id: zone || null })
      dialog.close()
      toast(`${given} was added`)
    }))
  }

  #drag(event) {
    const chip = event.target.closest?.('[data-user-id]')
    if (!chip || document.body.classList.contains('read-only')) return event.preventDefault()
    this.#dragged = chip.user
    event.dataTransfer.effectAllowed = 'move'
    event.dataTransfer.setData('text/plain', chip.user.name)
  }

  #drop(event) {
    const tile = event.target.closest('.tile')?.tile
    if (!tile || !this.#dragged) return
    event.preventDefault()
    this.move(this.#dragged, tile.zone)
    this.#over(null)
  }

  #over(tile) {
    for (const marked of byId('board').querySelectorAll('.over')) if (marked !== tile) marked.classList.remove('over')
    tile?.classList.add('over')
    if (!tile) this.#dragged = null
  }
}

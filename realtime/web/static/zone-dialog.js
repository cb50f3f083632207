// A zone's dialog: everybody in it, to be searched, and how it was at another time.

import { field, form, openDialog } from './dialogs.js'
import { element, faceOf, nameOfZone } from './elements.js'
import { Replay } from './replay.js'

const MAX_SHOWN = 300
const REFRESH_MS = 400
const STEP_MS = 120

export class ZoneDialog {
  #zone
  #operator
  #http
  #replay = null
  #playing = 0
  #search = element('input', { type: 'search', placeholder: 'Name', autocomplete: 'off' })
  #list = element('ul', { className: 'people' })
  #note = element('p', { className: 'note', role: 'status' })
  #time = element('input', { type: 'range', min: 0, value: 0, max: 0, disabled: true })
  #when = element('output', {}, 'now')
  #play = element('button', { type: 'button', disabled: true }, 'Play')
  #live = element('button', { type: 'button', disabled: true }, 'Back to live')
  #shown = ''

  constructor(zone, operator, http) {
    this.#zone = zone
    this.#operator = operator
    this.#http = http
    const parts = [field('Find a person', this.#search), this.#list, this.#note]
    if (zone.id !== null) parts.push(this.#history(), this.#naming())
    this.dialog = openDialog(nameOfZone(zone), ...parts)
    this.#search.addEventListener('input', () => this.#draw())
    const timer = setInterval(() => this.#replay || this.#draw(), REFRESH_MS)
    this.dialog.addEventListener('close', () => {
      clearInterval(timer)
      clearInterval(this.#playing)
    })
    this.#draw()
    if (zone.id !== null) this.#readHistory()
  }

  #history() {
    this.#time.addEventListener('input', () => this.#goTo(Number(this.#time.value)))
    this.#play.addEventListener('click', () => this.#playOrStop())
    this.#live.addEventListener('click', () => this.#goLive())
    return element('section', { 'aria-label': 'Another time' },
      field(element('span', {}, 'Time: ', this.#when), this.#time),
      element('div', { className: 'row' }, this.#play, this.#live))
  }

  #naming() {
    const name = element('input', { name: 'name', value: this.#zone.name, required: true, maxLength: 200 })
    const made = form([field('Name of the zone', name)], 'Rename', async ({ name: given }) => {
      await this.#operator.renameZone(this.#zone, given.trim())
      this.dialog.heading.textContent = given.trim()
    })
    made.className = 'operator'
    return made
  }

  async #readHistory() {
    try {
      const history = await Replay.of(this.#http, this.#zone, this.#operator.everybody())
      this.#time.max = history.length
      this.#time.value = history.length
      this.#time.disabled = this.#play.disabled = history.length === 0
      this.history = history
      if (history.length) this.#when.textContent = `now; ${history.length} changes since ${shortTime(history.timeAt(1))}`
    } catch (error) {
      this.#when.textContent = `now; the past can't be read: ${error.message}`
    }
  }

  #goTo(index) {
    this.#replay = index
    this.#live.disabled = false
    this.#time.value = index
    const text = index ? shortTime(this.history.timeAt(index)) : `before ${shortTime(this.history.timeAt(1))}`
    this.#when.textContent = text
    this.#time.setAttribute('aria-valuetext', text)
    this.#draw()
  }

  #goLive() {
    clearInterval(this.#playing)
    this.#playing = 0
    this.#play.textContent = 'Play'
    this.#replay = null
    this.#live.disabled = true
    this.#draw()
    this.#readHistory()
  }

  #playOrStop() {
    if (this.#playing) {
      clearInterval(this.#playing)
      this.#playing = 0
      this.#play.textContent = 'Play'
      return
    }
    if (this.#replay === null || this.#replay >= this.history.length) this.#goTo(0)
    this.#play.textContent = 'Stop'
    this.#playing = setInterval(() => {
      if (this.#replay < this.history.length) this.#goTo(this.#replay + 1)
      else this.#playOrStop()
    }, STEP_MS)
  }

  #draw() {
    const people = this.#replay === null ? [...this.#zone.users.values()] : this.history.peopleAt(this.#replay)
    const wanted = this.#search.value.trim().toLowerCase()
    const fitting = people.filter(({ name }) => name.toLowerCase().includes(wanted))
    const sorted = fitting.sort((one, other) => one.name.localeCompare(other.name)).slice(0, MAX_SHOWN)
    const shown = JSON.stringify(sorted.map(({ id, name }) => [id, name]))
    const rest = fitting.length - sorted.length
    this.#note.textContent = `${people.length} people${wanted ? `, ${fitting.length} of that name` : ''}${rest ? `; the first ${MAX_SHOWN} are shown, search for the others` : ''}${this.#replay === null ? '' : ', as it was then'}`
    if (shown === this.#shown) return
    this.#shown = shown
    const isPast = this.#replay !== null
    this.#list.replaceChildren(...sorted.map((user) => {
      const open = () => {
        this.dialog.close()
        this.#operator.openPerson(user)
      }
      const tag = isPast ? 'span' : 'button'
      const chip = element(tag, { className: 'chip', type: isPast ? undefined : 'button', onclick: isPast ? undefined : open }, faceOf(user), element('span', { className: 'name' }, user.name))
      chip.dataset.person = user.id
      return element('li', {}, chip)
    }))
  }
}

const shortTime = (ms) => {
  const time = new Date(ms)
  const day = time.toDateString() === new Date().toDateString() ? '' : `${time.toLocaleDateString()} `
  return day + time.toLocaleTimeString()
}

// A tile: one zone with its people, or with the latest of them where they are many.

import { element, faceOf, nameOfZone } from './elements.js'
import { Sparkline } from './sparkline.js'

// A person's place on the board: the same element for as long as they are shown.
export function makeChip(user) {
  const name = element('span', { className: 'name' })
  const inner = element('span', { className: 'chip', role: 'button', tabIndex: -1 }, faceOf(user), name)
  const chip = element('li', { 'data-user-id': user.id, draggable: true }, inner)
  return Object.assign(chip, { inner, nameElement: name, user: undefined })
}

export function nameChip(chip, user, zone) {
  chip.zone = zone
  if (chip.user === user) return
  const isNamed = chip.user?.name === user.name
  chip.user = user
  if (isNamed) return
  chip.nameElement.textContent = user.name
  chip.inner.title = user.name
  chip.inner.firstElementChild.replaceWith(faceOf(user))
}

export class Tile {
  sparkline = new Sparkline()
  isVisible = true
  wasSeen = false
  #heading = element('h3')
  #id = element('span', { className: 'zone-id' })
  #count = element('span', { className: 'count' })
  #people = element('ul', { className: 'people' })
  #more = element('button', { type: 'button', className: 'more' })

  constructor(zone, number, onOpen) {
    this.zone = zone
    const headingId = `zone-${number}`
    this.#heading.id = headingId
    const open = element('button', { type: 'button', className: 'open', onclick: () => onOpen(zone) }, this.#heading, this.#id)
    this.#more.addEventListener('click', () => onOpen(zone))
    const head = element('header', {}, open, this.#count)
    this.#people.setAttribute('aria-labelledby', headingId)
    this.element = element('section', { className: 'tile', 'aria-labelledby': headingId }, head, this.sparkline.svg, this.#people, this.#more)
    this.element.dataset.zoneId = zone.id ?? ''
    this.describe()
  }

  describe() {
    const name = nameOfZone(this.zone)
    this.#heading.textContent = name
    this.#id.textContent = this.zone.id === null || name === this.zone.id ? '' : this.zone.id
  }

  has(text) {
    return !text || nameOfZone(this.zone).toLowerCase().includes(text) || (this.zone.id ?? '').toLowerCase().includes(text)
  }

  // Whom to show: the latest to come, of those whose name fits.
  #wanted(users, most, nameFilter) {
    const fitting = nameFilter ? users.filter(({ name }) => name.toLowerCase().includes(nameFilter)) : users
    return { shown: fitting.slice(-most), fitting: fitting.length, all: users.length }
  }

  // Make the list what is wanted; `chipOf` gives a user's chip, wherever it is now.
  update(users, most, nameFilter, chipOf) {
    const { shown, fitting, all } = this.#wanted(users, most, nameFilter)
    const wanted = new Set(shown.map(({ id }) => id))
    let place = this.#people.firstElementChild
    for (const user of shown) {
      const chip = chipOf(user)
      nameChip(chip, user, this.zone)
      while (place && !wanted.has(place.user.id)) {
        const next = place.nextElementSibling
        place.remove()
        place = next
      }
      if (chip === place) place = place.nextElementSibling
      else this.#people.insertBefore(chip, place)
    }
    while (place) {
      const next = place.nextElementSibling
      place.remove()
      place = next
    }
    for (const chip of this.#people.children) chip.inner.tabIndex = chip === this.#people.firstElementChild ? 0 : -1
    const count = String(all)
    if (this.#count.textContent !== count) {
      this.#count.textContent = count
      this.#count.setAttribute('aria-label', all === 1 ? '1 person' : `${all} people`)
    }
    this.element.classList.toggle('nobody', all === 0)
    this.element.hidden = Boolean(nameFilter) && fitting === 0
    this.#more.hidden = fitting <= shown.length
    if (!this.#more.hidden) this.#more.textContent = `and ${fitting - shown.length} more`
    this.sparkline.note(all)
    if (this.sparkline.isBlank) this.sparkline.draw()
  }
}

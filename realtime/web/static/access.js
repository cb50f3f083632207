// Access: who looks, where the service asks for that.
//
// A token is kept by the browser as the service's own cookie, which no script can read, and for
// as long as the page is open in its memory. A ticket lets one connection in, to look.

import { field, openDialog } from './dialogs.js'
import { byId, element } from './elements.js'

const HINT = 'zonecast-scope' // What the token allowed, to show no button that would be refused.
const REASONS = {
  101: 'This service asks who you are.',
  109: 'The token has ended.',
  401: 'This service asks who you are.',
  3500: 'The token is not accepted any more.',
}

export const isRefusal = ({ code } = {}) => code in REASONS

export class Access {
  ticket = ''
  ticketZones = null
  #http
  #enter

  // `enter` is called whenever somebody may be let in.
  constructor(http, enter) {
    this.#http = http
    this.#enter = enter
    byId('sign-out').addEventListener('click', () => this.#signOut())
    if (this.#readLink(location.hash.slice(1))) history.replaceState(null, '', location.pathname)
  }

  async start() {
    this.#show()
    if (!this.ticket) {
      try {
        await this.#http.read('zones?limit=1')
      } catch (error) {
        // Without a right to list there may be one to watch; without an answer it is tried again.
        if (error.status === 401) return this.ask({ code: 401 })
      }
    }
    this.#enter()
  }

  // Ask for a token, with the reason why.
  ask({ code, message } = {}) {
    if (document.querySelector('.sign-in')) return
    const text = element('textarea', { name: 'text', required: true, spellcheck: false, autocomplete: 'off', placeholder: 'eyJhbGciOi… or https://…#ticket=…' })
    const problem = element('p', { className: 'problem', role: 'alert' })
    const submit = element('button', { className: 'primary' }, 'Sign in')
    const made = element('form', {}, field('Token, or a link with a ticket', text), problem, submit)
    const dialog = openDialog('Sign in', element('p', { className: 'note' }, REASONS[code] ?? message ?? ''), made)
    dialog.classList.add('sign-in')
    made.addEventListener('submit', async (event) => {
      event.preventDefault()
      try {
        await this.#take(text.value.trim())
        dialog.close()
        this.#show()
        this.#enter()
      } catch (error) {
        problem.textContent = error.message
      }
    })
  }

  async #take(text) {
    if (this.#readLink(text.split('#')[1] ?? text.split('?')[1] ?? '')) return
    this.ticket = ''
    this.#http.token = text.replace(/^Bearer\s+/i, '')
    try {
      await this.#http.ask('POST', 'session')
    } catch (error) {
      // One too long for a cookie is good until the page is closed.
      if (error.status !== 422) {
        this.#http.token = ''
        throw error
      }
    }
    localStorage.setItem(HINT, scopeOf(this.#http.token))
  }

  #readLink(text) {
    const given = new URLSearchParams(text)
    if (!given.get('ticket')) return false
    this.ticket = given.get('ticket')
    this.ticketZones = given.get('zones')?.split(',') ?? null
    return true
  }

  // A WebSocket that shows the ticket, once.
  socketClass() {
    const { ticket } = this
    this.ticket = ''
    let isUsed = false
    return class extends WebSocket {
      constructor(url) {
        super(isUsed ? url : `${url}?ticket=${encodeURIComponent(ticket)}`)
        isUsed = true
      }
    }
  }

  async #signOut() {
    await this.#http.ask('DELETE', 'session')
    localStorage.removeItem(HINT)
    location.reload()
  }

  #show() {
    const scope = localStorage.getItem(HINT)
    byId('sign-out').hidden = scope === null
    const isReader = Boolean(this.ticket) || (scope !== null && !scope.split(' ').includes('write'))
    document.body.classList.toggle('read-only', isReader)
  }
}

// What a token says that it allows; the service is who decides.
function scopeOf(token) {
  try {
    const claims = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')
    return String(JSON.parse(atob(claims)).scope ?? '')
  } catch {
    return 'write'
  }
}

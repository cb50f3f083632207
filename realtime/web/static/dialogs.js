// Dialogs: each is made when it is opened and gone when it is closed.

import { element } from './elements.js'

let made = 0

// Open a dialog; returns it. It closes by its button, by Escape, and by `close()`.
export function openDialog(title, ...content) {
  const id = `dialog-${++made}`
  const close = element('button', { type: 'button', className: 'icon', 'aria-label': 'Close', onclick: () => dialog.close() }, '✕')
  const heading = element('h2', { id }, title)
  const dialog = element('dialog', { 'aria-labelledby': id },
    element('header', {}, heading, close), element('div', { className: 'content' }, ...content))
  dialog.heading = heading
  dialog.addEventListener('close', () => dialog.remove())
  document.body.append(dialog)
  dialog.showModal()
  return dialog
}

// A form whose refusal is shown in it. `send` gets the values of its fields by name.
export function form(fields, button, send) {
  const problem = element('p', { className: 'problem', role: 'alert' })
  const submit = element('button', { className: 'primary' }, button)
  const made = element('form', { noValidate: false }, element('div', { className: 'row' }, ...fields, submit), problem)
  made.addEventListener('submit', async (event) => {
    event.preventDefault()
    submit.disabled = true
    problem.textContent = ''
    try {
      await send(Object.fromEntries(new FormData(made)))
    } catch (error) {
      problem.textContent = error.message
    }
    submit.disabled = false
  })
  return made
}

export function field(label, input) {
  return element('label', {}, label, input)
}

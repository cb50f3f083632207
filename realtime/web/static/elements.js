// Elements: made with their properties, attributes and children in one call.

// Make an element. Names with `-`, and those that no property of it has, are attributes.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value)
    else if (name in made) made[name] = value
    else made.setAttribute(name, value)
  }
  made.append(...children)
  return made
}

export const byId = (id) => document.getElementById(id)

export function say(id, text) {
  const place = byId(id)
  if (place.textContent !== text) place.textContent = text
}

// Show a line for some seconds; errors stay longer.
export function toast(text, isError = false) {
  const line = element('p', { className: isError ? 'toast error' : 'toast' }, text)
  byId('toasts').append(line)
  setTimeout(() => line.remove(), isError ? 9_000 : 4_000)
}

export const nameOfZone = (zone) => (zone.id === null ? 'No zone' : zone.name || zone.id)

// The initials of a name, and one of twelve colours that stays with the person.
export function faceOf(user) {
  const words = user.name.trim().split(/\s+/)
  const letters = [words[0], words.length > 1 ? words.at(-1) : ''].map((word) => [...word][0] ?? '')
  return element('span', { className: `face hue-${user.id % 12}`, 'aria-hidden': 'true' }, letters.join('').toUpperCase())
}

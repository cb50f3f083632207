// The HTTP API, as the page asks it: with the token where there is one, else by the session.

// A refused request: `message` is the reason, in the service's words.
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `refused (${status})`)
    this.status = status
    this.problem = problem
  }
}

export class Http {
  token = ''
  onUnauthorized = () => {}

  async ask(method, path, body) {
    const headers = { accept: 'application/json' }
    if (this.token) headers.authorization = `Bearer ${this.token}`
    if (body !== undefined) headers['content-type'] = 'application/json'
    let answer
    try {
      answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: 'no-store' })
    } catch {
      throw new Refused(0, { detail: 'the service cannot be reached' })
    }
    const text = await answer.text()
    const json = text && /json/.test(answer.headers.get('content-type')) ? JSON.parse(text) : {}
    if (answer.status === 401) this.onUnauthorized()
    if (!answer.ok) throw new Refused(answer.status, json)
    return json
  }

  read(path) {
    return this.ask('GET', path)
  }
}

/** A user, as the service has it. */
export interface User {
  readonly id: number
  readonly global_id: number
  readonly name: string
  readonly zone_id: string | null
  readonly attributes: Readonly<Record<string, unknown>>
  readonly version: number
}

/** A zone id; `null`: the users in no zone, for whose token grants all (by WebSocket only). */
export type ZoneId = string | null

/** A zone as it is now. The object stays the same; what it holds follows the service. */
export interface Zone {
  readonly id: ZoneId
  readonly channel: string
  readonly name: string | null
  readonly attributes: Readonly<Record<string, unknown>>
  /** Who is in it, by user id. A user is in one zone of a `Zones` at any time. */
  readonly users: ReadonlyMap<number, User>
  /**
   * `loading` before its first state; `missing`: there is none of this id, which is asked again
   * every few seconds; `refused`: the token doesn't grant it, or it is too large (see `error`).
   */
  readonly state: 'loading' | 'live' | 'missing' | 'refused'
  readonly error: Failure | null
  /** Its position: an epoch, and the revision in it; `''` and -1 before its first state. */
  readonly epoch: string
  readonly rev: number
  /** Digest what is held, to be compared with `GET /zones/{id}/digest` at the same position. */
  digest(): string
}

export interface Failure {
  /** A code of the WebSocket protocol or an HTTP status; none where the network failed. */
  readonly code?: number
  readonly message?: string
}

/** What one message of the service changed: a move is one change, in both its zones. */
export interface Change {
  /** The transactions that it came of; none where missed changes or states were taken in. */
  readonly txs: readonly string[]
  /** When the last of them was committed, Unix milliseconds by the service's clock, if known. */
  readonly time?: number
  /** The users it is about, each once. */
  readonly users: readonly Move[]
  /** The zones it is about, in their new state. */
  readonly zones: readonly Zone[]
}

/** What became of one user. `from` and `to` are the same where it stayed. */
export interface Move {
  readonly id: number
  /** As it is now; `undefined`: in none of these zones. */
  readonly user?: User
  /** As it was; `undefined`: it was in none of these zones. */
  readonly before?: User
  readonly from?: ZoneId
  readonly to?: ZoneId
}

export interface Status {
  /**
   * - `connecting`: no connection, and the next is tried by itself
   * - `catching up`: connected, and not all zones have answered
   * - `live`: what is shown is what the service has
   * - `stale`: the service itself could not compare with its database
   * - `paused`: the page is hidden; it goes on when it is seen
   * - `closed`: by `close()`, or for good (see `error`)
   */
  readonly state: 'connecting' | 'catching up' | 'live' | 'stale' | 'paused' | 'closed'
  /** Since when what is shown may be old, Unix milliseconds; `null` while it is live. */
  readonly since: number | null
  /** Why the last connection ended. */
  readonly error?: Failure | null
  readonly transport?: 'websocket' | 'sse'
  /** The node that serves, as far as it is told. */
  readonly node?: string
  /** How many connections there were, this one included. */
  readonly connections: number
  /** How often a zone went on from where it was, after a lost connection. */
  readonly resumed: number
  /** How often a zone was taken anew instead. */
  readonly snapshots: number
}

export interface Options {
  /** The service's base URL; by default where the module came from. */
  url?: string
  /** Zones to watch; `'*'`: all there are, for whose token grants all. More by `add`. */
  zones?: '*' | readonly ZoneId[]
  /**
   * A token, or what gets one. It is called for each connection, and again before the token
   * ends; when it fails, that is tried again like a connection.
   */
  token?: string | (() => string | Promise<string>)
  /** `auto`: event streams where no WebSocket is let through. */
  transport?: 'auto' | 'websocket' | 'sse'
  /** How long a page is hidden before it lets go of its connection; `Infinity`: never. */
  pauseAfterMs?: number
  /** Between connections, about: doubled each time, and spread by half. */
  backoffMinMs?: number
  backoffMaxMs?: number
  /** Where the platform has none, such as the package `ws` in Node before 22. */
  WebSocket?: unknown
  fetch?: typeof fetch
}

export interface ZonesEvents {
  change: Change
  status: Status
  /** A zone is missing or refused. */
  error: Failure & { readonly zone: Zone }
  /** All zones have answered, on this connection. */
  ready: null
}

/** Zones that are watched. An `EventTarget`, too: its events have what `on` tells as `detail`. */
export interface Zones extends EventTarget, Iterable<Zone>, AsyncIterable<Change> {
  readonly status: Status
  /** Done when all zones have answered for the first time. */
  readonly ready: Promise<Zones>
  /** Call a listener from now on; returns what ends that. */
  on<Type extends keyof ZonesEvents>(
    type: Type,
    listener: (detail: ZonesEvents[Type]) => void,
  ): () => void
  get(id: ZoneId): Zone | undefined
  /** The zone where a user is shown. */
  find(userId: number): Zone | undefined
  /** Watch one more zone. */
  add(id: ZoneId): Zone
  /** Watch one no more. */
  remove(id: ZoneId): void
  /** End it for good: the connection, the timers, the iterators. */
  close(): void
}

/** Watch zones. It connects at once, and goes on by itself until `close()`. */
export function watch(options?: Options): Zones

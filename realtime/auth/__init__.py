"""Who may do what: tokens become principals, and one policy says what a principal may do.

What transports use:

- `gate.Gate`: from a token, or what a request carries, to a `principal.Principal`, or an
  `errors.RefusedError` with its reason. Synchronous where no key has to be fetched.
- `policy.Policy`: whether a principal may do an `Action` in zones, or on a channel.
- `revocations.Revocations`: `watch(principal, changed)` for as long as a connection lives.
- `origins.Origins`: whether a browser's page may talk to us at all.

Without any key in the settings the gate is open: everybody is `principal.ANYBODY`, and the
same policy, asked the same way, lets it do everything.
"""

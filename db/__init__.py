"""The truth: users and zones in a database, and the log of what was committed about them.

Importing anything of this package arms the change capture: a session that writes the models
must not depend on somebody having remembered to.
"""

from db.capture import listen

listen()

"""The local SMTP inbox: accepts mail, stores it durably, shows it; nothing is forwarded.

It is the witness of the demo and of the tests, so a mail is on disk before its 250 is
answered, and every refusal is remembered too.

- `behaviour.py`  what a recipient's address asks for (`refuse+...@`, `defer-once+...@` ...)
- `smtp.py`       the conversation
- `journal.py`    an append-only file of JSON lines with one fsync for many writers
- `mailbox.py`    what was accepted, deferred and refused; counts and look-ups
- `callbacks.py`  HTTP requests that were posted to `/callbacks/{name}`
- `web.py`, `routes.py`, `page.py`, `reading.py`  the small HTTP side
"""

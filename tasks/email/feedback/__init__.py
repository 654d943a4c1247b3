"""What is heard back after a mail was sent: bounces, complaints, unsubscriptions.

Pure functions, no database. Three ways in: `dsn` (a bounce that came as a mail), `arf` (a complaint
that came as a mail) and `providers` (webhooks). `classify` makes a decision of each, with its
reason. `verp` and `unsubscribe` are what goes out so that answers find back to their message.
"""

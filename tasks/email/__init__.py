"""Email: payload, composition, the conversation with a relay, and the record of it.

The path of an email: `send` (the kind) -> `payload` -> `composer` -> `delivery` (one message, its
phases) -> `pool` -> `smtp` -> `replies` (what a reply means) -> `message_writer` (the ledger) ->
`outcome`.
"""

"""Email: payload, composition, the conversation with a relay, and the books about it.

The way of a mail: `send` (the kind) -> `payload` -> `composer` -> `delivery` (one message, its
phases) -> `pool` -> `smtp` -> `replies` (what an answer means) -> `message_writer` (the ledger) ->
`outcome`.
"""

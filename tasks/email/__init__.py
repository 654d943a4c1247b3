"""Email: payload, composition, the conversation with a relay, and the books about it.

The way of a mail: `send` (the kind) -> `payload` -> `mime` -> `delivery` (one message, its phases)
-> `pool` -> `smtp` -> `replies` (what an answer means) -> `marks` (the ledger) -> `verdict`.
"""

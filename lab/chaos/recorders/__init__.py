"""Recorders: an SMTP relay and a callback receiver that write down what reached them.

They run in processes of their own, are never hurt by a fault, and have every line on the disk
before they answer: what they know is evidence.
"""

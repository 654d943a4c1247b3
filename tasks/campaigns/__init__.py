"""Campaigns: one mail to many recipients, each exactly once."""

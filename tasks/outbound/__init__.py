"""HTTP to addresses that callers name: guarded, bounded, never redirected."""

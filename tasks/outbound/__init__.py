"""HTTP to addresses that callers choose: guarded, bounded, never redirected."""

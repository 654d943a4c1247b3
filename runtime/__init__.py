"""What every process needs: settings, logging, telemetry, metrics, errors."""

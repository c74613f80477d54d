"""What every room stands on: storage, leases, processes. Knows no sweep and no model."""

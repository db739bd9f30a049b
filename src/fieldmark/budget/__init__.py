"""What fits into a given time. No torch: costs are measured by others, here is chosen."""

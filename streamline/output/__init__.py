"""What a run leaves: videos, receipts, reports and pictures."""

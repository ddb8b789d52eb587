"""What a run will take: measured on tensors without data, composed for any plan, corrected by what runs took."""

"""What changes logits before the filters: masks, bias and penalties (contract section 1)."""

"""Model families, a folder each: how their networks become programs, and what their pipelines do around them."""

"""When a step may reuse what the step before computed: policies, and what they are calibrated by."""

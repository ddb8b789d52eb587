"""When a step may reuse what the step before computed: policies, what they are calibrated by, and how they are chosen."""

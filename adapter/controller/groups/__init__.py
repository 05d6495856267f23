"""Groups of variants in the control loop: one demand, who carries it, and transitions that lose nothing."""

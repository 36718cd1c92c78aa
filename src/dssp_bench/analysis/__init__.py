"""Records to numbers: `summary` condenses a run into one small dict, `series` follows it over time."""

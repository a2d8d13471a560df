"""The page Release: what a gradual release shows, and the wishes of people. Decides nothing, and moves no traffic itself."""

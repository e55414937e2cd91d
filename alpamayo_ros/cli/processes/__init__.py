"""The programs that alpamayo_live runs beside itself, and what starts and ends them."""

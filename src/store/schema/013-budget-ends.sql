-- Periods that ended long ago are found to be deleted.
CREATE INDEX budget_periods_by_end ON budget_periods (ends_s);

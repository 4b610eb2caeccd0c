-- What was told of a response while it was made, as its callers got it: of one that was made in the background, its
-- events; '-' of another that was streamed, whose events were not kept; '' where there were none.
ALTER TABLE responses ADD COLUMN events TEXT NOT NULL DEFAULT '';

"""The decoupled family, which distils a teacher: SRe2L, CDA, RDED, DELT."""

"""What a run costs before it is started: arithmetic, hours, disk, requests (`selma plan`)."""

from __future__ import annotations

from selma.planning.estimating import plan
from selma.planning.work import Asked, Plan, StagePlan, Work

__all__ = ["Asked", "Plan", "StagePlan", "Work", "plan"]

"""What people who only score may do: score, review, and look at everything but files to take away.

A route that is in neither list is closed to them, and a test asks that somebody decide.
"""

from fastapi import Request

from tastemaker.auth.identity import Identity
from tastemaker.errors import TastemakerError

ANNOTATOR = {
    "GET": frozenset(
        {
            "/",
            "/projects/{project_id}",
            "/projects/{project_id}/score",
            "/projects/{project_id}/score/strip",
            "/projects/{project_id}/score/waiting",
            "/projects/{project_id}/score/grid",
            "/projects/{project_id}/score/pairs",
            "/projects/{project_id}/review",
            "/projects/{project_id}/review/{kind}",
            "/projects/{project_id}/library",
            "/projects/{project_id}/library/tags",
            "/projects/{project_id}/images/{image_id}",
            "/projects/{project_id}/versions",
            "/projects/{project_id}/versions/training",
            "/versions/{version_id}",
            "/versions/{version_id}/sheets/{sheet}",
            "/versions/{version_id}/card.md",
            "/projects/{project_id}/compare",
            "/projects/{project_id}/slices",
            "/projects/{project_id}/people",
            "/projects/{project_id}/settings",
            "/projects/{project_id}/test-runs",
            "/projects/{project_id}/test-runs/{run_id}",
            "/projects/{project_id}/test-runs/{run_id}/progress",
            "/projects/{project_id}/try",
            "/projects/{project_id}/try/{token}",
            "/projects/{project_id}/try/{token}/view",
            "/projects/{project_id}/added/{sha256}",
            "/images/{image_id}/thumb",
            "/images/{image_id}/view",
            "/images/{image_id}/full",
            "/api/v1/projects",
            "/api/v1/projects/{project_id}",
            "/api/v1/projects/{project_id}/queue",
            "/api/v1/projects/{project_id}/scores",
            "/api/v1/projects/{project_id}/history",
            "/api/v1/projects/{project_id}/images/{image_id}",
            "/api/v1/projects/{project_id}/review/{kind}",
            "/api/v1/projects/{project_id}/versions",
            "/api/v1/versions/{version_id}",
            "/api/v1/versions/{version_id}/card",
            "/api/v1/versions/{version_id}/sheets/{sheet}",
            "/api/v1/projects/{project_id}/compare",
            "/api/v1/projects/{project_id}/compare/flips",
            "/api/v1/projects/{project_id}/slices",
            "/api/v1/projects/{project_id}/people",
            "/api/v1/projects/{project_id}/comparisons",
            "/api/v1/projects/{project_id}/library",
            "/api/v1/projects/{project_id}/library/{image_id}",
            "/api/v1/projects/{project_id}/tags",
            "/api/v1/projects/{project_id}/filters",
            "/api/v1/projects/{project_id}/test-runs",
            "/api/v1/projects/{project_id}/test-runs/{run_id}",
            "/api/v1/projects/{project_id}/test-runs/{run_id}/images",
            "/api/v1/keys",
        }
    ),
    "POST": frozenset(
        {
            "/logout",
            "/person",
            "/projects/{project_id}/images/{image_id}/score",
            "/projects/{project_id}/images/{image_id}/skip",
            "/projects/{project_id}/images/{image_id}/flag",
            "/projects/{project_id}/undo",
            "/projects/{project_id}/score/grid",
            "/projects/{project_id}/score/grid/undo",
            "/projects/{project_id}/score/pairs",
            "/projects/{project_id}/score/pairs/undo",
            "/projects/{project_id}/library/changes",  # scores only; see `library_changes`
            "/projects/{project_id}/library/undo",
            "/projects/{project_id}/keys",
            "/projects/{project_id}/compare/images/{image_id}/score",
            "/projects/{project_id}/compare/undo",
            "/projects/{project_id}/test-runs/{run_id}/images/{image_id}/score",
            "/projects/{project_id}/test-runs/{run_id}/undo",
            "/projects/{project_id}/try",
            "/projects/{project_id}/try/warm",
            "/projects/{project_id}/try/{token}/again",
            "/api/v1/projects/{project_id}/scores",
            "/api/v1/projects/{project_id}/undo",
            "/api/v1/projects/{project_id}/batches",
            "/api/v1/projects/{project_id}/batches/undo",
            "/api/v1/projects/{project_id}/comparisons",
            "/api/v1/projects/{project_id}/comparisons/undo",
            "/api/v1/projects/{project_id}/library",  # scores only; see `library_changes`
            "/api/v1/keys",
            "/api/v1/projects/{project_id}/predict",
            "/api/v1/projects/{project_id}/test-runs/{run_id}/scores",
        }
    ),
}

ADMIN = {
    "GET": frozenset(
        {
            "/api/v1/jobs",
            "/api/v1/jobs/{job_id}",
            "/api/v1/people",
            "/api/v1/projects/{project_id}/labels",
            "/api/v1/versions/{version_id}/download",
            "/api/v1/versions/{version_id}/export",
            "/api/v1/versions/{version_id}/predictions",
            "/api/v1/versions/{version_id}/training-set",
            "/jobs",
            "/jobs/list",
            "/jobs/{job_id}",
            "/jobs/{job_id}/progress",
            "/projects/{project_id}/add",
            "/projects/{project_id}/labels.{ending}",
            "/projects/{project_id}/publish",
            "/projects/{project_id}/publish/adopting",
            "/versions/{version_id}/checkpoint",
            "/versions/{version_id}/config",
            "/versions/{version_id}/download",
            "/versions/{version_id}/laion",
            "/versions/{version_id}/predictions.{ending}",
            "/versions/{version_id}/training-set.csv",
            "/versions/{version_id}/training-set.jsonl",
        }
    ),
    "POST": frozenset(
        {
            "/api/v1/demo",
            "/api/v1/jobs/{job_id}/cancel",
            "/api/v1/jobs/{job_id}/retry",
            "/api/v1/people",
            "/api/v1/people/{person_id}/disable",
            "/api/v1/people/{person_id}/password",
            "/api/v1/projects",
            "/api/v1/projects/{project_id}/delete",
            "/api/v1/projects/{project_id}/expectations",
            "/api/v1/projects/{project_id}/filters",
            "/api/v1/projects/{project_id}/heads",
            "/api/v1/projects/{project_id}/imports",
            "/api/v1/projects/{project_id}/settings",
            "/api/v1/projects/{project_id}/slices",
            "/api/v1/projects/{project_id}/slices/{slice_id}/search",
            "/api/v1/projects/{project_id}/test-runs",
            "/api/v1/projects/{project_id}/train",
            "/api/v1/projects/{project_id}/uploads",
            "/api/v1/versions/{version_id}/activate",
            "/demo",
            "/jobs/{job_id}/cancel",
            "/jobs/{job_id}/retry",
            "/people/{person_id}/disable",
            "/people/{person_id}/password",
            "/projects",
            "/projects/{project_id}/add/files",
            "/projects/{project_id}/add/folder",
            "/projects/{project_id}/card",
            "/projects/{project_id}/delete",
            "/projects/{project_id}/expectations",
            "/projects/{project_id}/expectations/{expectation_id}/remove",
            "/projects/{project_id}/heads",
            "/projects/{project_id}/library/filters",
            "/projects/{project_id}/library/filters/{slice_id}/delete",
            "/projects/{project_id}/people",
            "/projects/{project_id}/settings",
            "/projects/{project_id}/slices",
            "/projects/{project_id}/slices/{slice_id}/remove",
            "/projects/{project_id}/slices/{slice_id}/search",
            "/projects/{project_id}/test-runs",
            "/projects/{project_id}/test-runs/{run_id}/cancel",
            "/projects/{project_id}/test-runs/{run_id}/retry",
            "/projects/{project_id}/train",
            "/projects/{project_id}/try/{token}/add",
            "/versions/{version_id}/activate",
        }
    ),
    "PUT": frozenset(
        {
            "/api/v1/projects/{project_id}/card",
            "/api/v1/projects/{project_id}/expectations/{expectation_id}",
        }
    ),
    "DELETE": frozenset(
        {
            "/api/v1/projects/{project_id}/expectations/{expectation_id}",
            "/api/v1/projects/{project_id}/filters/{slice_id}",
            "/api/v1/projects/{project_id}/slices/{slice_id}",
        }
    ),
}


class NotAllowed(TastemakerError):
    status = 403


async def allowed(request: Request) -> None:
    """Dependency of every route. Raises `NotAllowed`."""
    who = getattr(request.state, "who", None)
    if who is None or who.is_admin:  # None: one of the open doors
        return
    if request.scope["route"].path not in ANNOTATOR.get(request.method, ()):
        only_admin(who)


def only_admin(who: Identity) -> None:
    """For what one route lets only some do. Raises `NotAllowed`."""
    if not who.is_admin:
        raise NotAllowed(
            "Only the admin can do this here; nothing was changed.",
            "You can score, review and look at everything.",
        )
